"""The API's ContainerStatus of each container, from what the runtime says and why something waits.

A failure to start (`CrashLoopBackOff`, `ErrImagePull`, …) shows as Waiting with that reason, and
moves how the container ended last to `lastState`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import (
    ContainerState,
    ContainerStateRunning,
    ContainerStateTerminated,
    ContainerStateWaiting,
    ContainerStatus,
    ContainerUser,
    LinuxContainerUser,
    Pod,
    ResourceRequirements,
    VolumeMountStatus,
)
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, State
from tiphys.kubelet.pod import AnyContainer, is_sidecar

CREATING: Final = "ContainerCreating"
INITIALIZING: Final = "PodInitializing"
UNKNOWN_EXIT: Final = 137


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container could not be started at the last attempt: the reason is an API word, the message prose."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What besides the runtime's word goes into container statuses. Callables take a running container."""

    runtime_name: str
    waiting: Mapping[str, Waiting] = field(default_factory=dict)  # by container name
    ready: Callable[[RuntimeContainer], bool] = field(default=lambda container: True)
    started: Callable[[RuntimeContainer], bool] = field(default=lambda container: True)
    restarting: bool = False  # those without a run are to have another, whatever the last one was
    # What a container's newest run has, by name; None for what the spec says.
    resources: Callable[[str], ResourceRequirements | None] = field(default=lambda name: None)


def regular_statuses(
    pod: Pod, runtime: RuntimePod, facts: ContainerFacts, *, initialized: bool
) -> tuple[ContainerStatus, ...]:
    """Statuses of the regular containers, by name as upstream orders them."""
    default = CREATING if initialized else INITIALIZING
    old = {status.name: status for status in pod.status.container_statuses}
    made = [_status(pod, c, runtime, facts, default, old.get(c.name)) for c in pod.spec.containers]
    return tuple(sorted(made, key=lambda status: status.name))


def init_statuses(pod: Pod, runtime: RuntimePod, facts: ContainerFacts) -> tuple[ContainerStatus, ...]:
    """Statuses of the init containers, in the order of the spec."""
    old = {status.name: status for status in pod.status.init_container_statuses}
    return tuple(_status(pod, c, runtime, facts, INITIALIZING, old.get(c.name)) for c in pod.spec.init_containers)


def ephemeral_statuses(pod: Pod, runtime: RuntimePod, facts: ContainerFacts) -> tuple[ContainerStatus, ...]:
    old = {status.name: status for status in pod.status.ephemeral_container_statuses}
    made = [_status(pod, c, runtime, facts, CREATING, old.get(c.name)) for c in pod.spec.ephemeral_containers]
    return tuple(sorted(made, key=lambda status: status.name))


def _status(
    pod: Pod,
    container: AnyContainer,
    runtime: RuntimePod,
    facts: ContainerFacts,
    default_reason: str,
    old: ContainerStatus | None,
) -> ContainerStatus:
    current = runtime.container(container.name)
    if current is None:
        status = _without_runtime(container, default_reason, old, restarting=facts.restarting)
    else:
        status = _with_runtime(container, current, runtime.previous(container.name), facts, default_reason)
        if status.last_state == ContainerState() and old is not None and old.restart_count == status.restart_count:
            # The earlier run was cleaned away; the API remembers how it ended.
            status = replace(status, last_state=old.last_state)
        status = _readiness(pod, container, current, facts, status)
    wait = facts.waiting.get(container.name)
    if wait is not None and (current is None or not current.running):
        ended = status.state if status.state is not None and status.state.terminated is not None else None
        status = replace(
            status,
            state=ContainerState(waiting=ContainerStateWaiting(reason=wait.reason, message=wait.message)),
            last_state=ended or status.last_state,
            ready=False,
        )
    running = facts.resources(container.name) if current is not None and current.running else None
    return replace(status, resources=running or container.resources, volume_mounts=_mounts(container))


def _without_runtime(
    container: AnyContainer, default_reason: str, old: ContainerStatus | None, *, restarting: bool
) -> ContainerStatus:
    status = ContainerStatus(
        name=container.name,
        image=container.image,
        state=ContainerState(waiting=ContainerStateWaiting(reason=default_reason)),
        last_state=ContainerState(),
        started=False,
    )
    if old is None:
        return status
    status = replace(status, restart_count=old.restart_count, last_state=old.last_state or ContainerState())
    if old.state is not None and old.state.terminated is not None and restarting:
        return replace(status, restart_count=old.restart_count + 1, last_state=old.state)
    if old.state is not None and old.state.terminated is not None:
        # It ended and was cleaned away: the API's memory is all there is.
        return replace(old, started=False)
    if old.state is not None and old.state.running is not None:
        lost = ContainerStateTerminated(
            exit_code=UNKNOWN_EXIT,
            reason="ContainerStatusUnknown",
            message="The container could not be located when the pod was deleted.  The container used to be Running",
            container_id=old.container_id,
        )
        return replace(status, last_state=ContainerState(terminated=lost), restart_count=old.restart_count + 1)
    return status


def _with_runtime(
    container: AnyContainer,
    current: RuntimeContainer,
    previous: RuntimeContainer | None,
    facts: ContainerFacts,
    default_reason: str,
) -> ContainerStatus:
    match current.state:
        case State.RUNNING:
            state = ContainerState(running=ContainerStateRunning(started_at=_second(current.started_at)))
        case State.EXITED:
            state = ContainerState(terminated=terminated_state(current, facts.runtime_name))
        case State.CREATED:
            state = ContainerState(waiting=ContainerStateWaiting(reason=default_reason))
        case _:
            state = ContainerState(
                terminated=ContainerStateTerminated(
                    exit_code=UNKNOWN_EXIT,
                    reason="ContainerStatusUnknown",
                    message="The container could not be located when the pod was terminated",
                    container_id=f"{facts.runtime_name}://{current.id}",
                )
            )
    ended = terminated_state(previous, facts.runtime_name) if previous is not None else None
    return ContainerStatus(
        name=container.name,
        image=current.image or container.image,
        image_id=current.image_ref or current.image_id,
        container_id=f"{facts.runtime_name}://{current.id}",
        restart_count=current.restart_count,
        state=state,
        last_state=ContainerState(terminated=ended) if ended else ContainerState(),
        allocated_resources=container.resources.requests if container.resources else {},
        user=_user(current),
        stop_signal=current.stop_signal or None,
    )


def ending_reason(container: RuntimeContainer) -> str:
    """Why a container ended: the runtime's reason, or Completed and Error by the exit code."""
    return container.reason or ("Completed" if container.exit_code == 0 else "Error")


def terminated_state(container: RuntimeContainer, runtime_name: str) -> ContainerStateTerminated:
    """How a container ended."""
    return ContainerStateTerminated(
        exit_code=container.exit_code,
        reason=ending_reason(container),
        message=container.message,
        started_at=_second(container.started_at),
        finished_at=_second(container.finished_at),
        container_id=f"{runtime_name}://{container.id}",
    )


def _readiness(
    pod: Pod, container: AnyContainer, current: RuntimeContainer, facts: ContainerFacts, status: ContainerStatus
) -> ContainerStatus:
    """`ready` and `started`: by probes for what keeps running, by success for an init container."""
    if any(item.name == container.name for item in pod.spec.init_containers) and not is_sidecar(container):
        return replace(status, ready=current.exited and current.exit_code == 0, started=current.running)
    if any(item.name == container.name for item in pod.spec.ephemeral_containers):
        return replace(status, ready=False, started=None)
    started = current.running and facts.started(current)
    return replace(status, started=started, ready=started and facts.ready(current))


def _mounts(container: AnyContainer) -> tuple[VolumeMountStatus, ...]:
    return tuple(
        VolumeMountStatus(
            name=mount.name,
            mount_path=mount.mount_path,
            read_only=bool(mount.read_only) or None,
            recursive_read_only=(mount.recursive_read_only or "Disabled") if mount.read_only else None,
        )
        for mount in container.volume_mounts
    )


def _user(current: RuntimeContainer) -> ContainerUser | None:
    if current.user is None:
        return None
    uid, gid, groups = current.user
    return ContainerUser(linux=LinuxContainerUser(uid=uid, gid=gid, supplemental_groups=groups))


def _second(moment: datetime | None) -> datetime | None:
    """API times have whole seconds."""
    return moment.replace(microsecond=0) if moment else None
