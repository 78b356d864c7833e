"""What the runtime says of a pod, as plain frozen values.

```
 RuntimePod(uid)
   sandboxes   newest first    [attempt 1 ready] [attempt 0 not ready]
   containers  newest first    [app #2 running] [app #1 exited] [init #0 exited]
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.cri import labels
from tiphys.kubelet.pod import PodUID


class State(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


_STATES: Final = {
    cri.CONTAINER_CREATED: State.CREATED,
    cri.CONTAINER_RUNNING: State.RUNNING,
    cri.CONTAINER_EXITED: State.EXITED,
    cri.CONTAINER_UNKNOWN: State.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSandbox:
    """One sandbox of a pod; `ips` is empty for pods on the host's network and while it has none."""

    id: str
    attempt: int
    ready: bool
    created_at: datetime
    ips: tuple[str, ...] = ()
    host_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeContainer:
    """One container as the runtime knows it; times are None until they have happened."""

    id: str
    name: str
    state: State
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    image_id: str = ""
    hash: str = ""
    restart_count: int = 0
    log_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int, tuple[int, ...]] | None = None
    stop_signal: str = ""

    @property
    def running(self) -> bool:
        return self.state is State.RUNNING

    @property
    def exited(self) -> bool:
        return self.state is State.EXITED


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePod:
    """Everything the runtime holds of one pod."""

    uid: PodUID
    name: str = ""
    namespace: str = ""
    sandboxes: tuple[RuntimeSandbox, ...] = ()
    containers: tuple[RuntimeContainer, ...] = ()

    @property
    def sandbox(self) -> RuntimeSandbox | None:
        """The newest sandbox, ready or not."""
        return self.sandboxes[0] if self.sandboxes else None

    @property
    def ready_sandbox(self) -> RuntimeSandbox | None:
        return next((sandbox for sandbox in self.sandboxes if sandbox.ready), None)

    def container(self, name: str) -> RuntimeContainer | None:
        """The newest container of this name."""
        return next((container for container in self.containers if container.name == name), None)

    def previous(self, name: str) -> RuntimeContainer | None:
        """The newest finished container of this name before the current one."""
        named = [container for container in self.containers if container.name == name]
        return next((container for container in named[1:] if container.exited), None)

    @property
    def running(self) -> tuple[RuntimeContainer, ...]:
        """Containers that hold processes, or may: unknown ones are treated as running when it comes to stopping."""
        return tuple(c for c in self.containers if c.state in (State.RUNNING, State.UNKNOWN))

    @property
    def empty(self) -> bool:
        return not self.sandboxes and not self.containers


def sandbox_from(item: cri.PodSandbox | cri.PodSandboxStatus) -> RuntimeSandbox:
    """A sandbox from a list entry (without addresses) or from its full status."""
    ips: tuple[str, ...] = ()
    host_network = False
    if isinstance(item, cri.PodSandboxStatus):
        if item.network.ip:
            ips = (item.network.ip, *(extra.ip for extra in item.network.additional_ips))
        host_network = item.linux.namespaces.options.network == cri.NODE
    return RuntimeSandbox(
        id=item.id,
        attempt=item.metadata.attempt,
        ready=item.state == cri.SANDBOX_READY,
        created_at=_time(item.created_at) or _EPOCH,
        ips=ips,
        host_network=host_network,
    )


def container_from(status: cri.ContainerStatus) -> RuntimeContainer:
    notes = dict(status.annotations)
    user = None
    if status.HasField("user") and status.user.HasField("linux"):
        linux = status.user.linux
        user = (linux.uid, linux.gid, tuple(linux.supplemental_groups))
    return RuntimeContainer(
        id=status.id,
        name=status.labels.get(labels.CONTAINER_NAME, status.metadata.name),
        state=_STATES.get(status.state, State.UNKNOWN),
        created_at=_time(status.created_at) or _EPOCH,
        started_at=_time(status.started_at),
        finished_at=_time(status.finished_at),
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.user_specified_image or status.image.image,
        image_ref=status.image_ref,
        image_id=status.image_id,
        hash=notes.get(labels.CONTAINER_HASH, ""),
        restart_count=_number(notes.get(labels.RESTART_COUNT), status.metadata.attempt),
        log_path=status.log_path,
        annotations=notes,
        user=user,
        stop_signal="" if status.stop_signal == 0 else cri.Signal.Name(status.stop_signal),
    )


def newest_first(containers: Iterable[RuntimeContainer]) -> tuple[RuntimeContainer, ...]:
    """Containers by age; the restart count decides between those of one clock tick."""
    return tuple(sorted(containers, key=lambda c: (c.created_at, c.restart_count), reverse=True))


_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def _time(nanoseconds: int) -> datetime | None:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds > 0 else None


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdigit() else otherwise
