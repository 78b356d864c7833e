"""Starts of a pod's containers that wait: after a failure, or because a container keeps ending."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.containers.errors import CRASH_LOOP_BACK_OFF
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pod import AnyContainer, container_hash, describe, uid_of
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.status.containers import Waiting
from tiphys.machinery.time import format_duration


@dataclass(frozen=True, slots=True)
class _Hold:
    """A container whose start waits: why, and until when (monotonic seconds)."""

    waiting: Waiting
    until: float


class Holds:
    """Those of one pod, by container name."""

    def __init__(self, services: PodServices, began: datetime) -> None:
        """`began`: when this kubelet took the pod on."""
        self._s = services
        self._began = began
        self._all: dict[str, _Hold] = {}

    def add(self, name: str, waiting: Waiting, seconds: float) -> None:
        """The container is not started for so long, and shows `waiting`."""
        self._all[name] = _Hold(waiting, self._s.clock.monotonic() + seconds)

    def drop(self, name: str) -> None:
        """The container is being started."""
        self._all.pop(name, None)

    def clear(self) -> None:
        """Everything begins anew."""
        self._all.clear()

    def keep_back_offs(self) -> None:
        """What failed may work now; what keeps ending waits all the same."""
        self._all = {name: hold for name, hold in self._all.items() if hold.waiting.reason.endswith("BackOff")}

    def active(self, name: str) -> bool:
        """Whether the container's time has not come."""
        hold = self._all.get(name)
        return hold is not None and hold.until > self._s.clock.monotonic()

    def waiting(self) -> dict[str, Waiting]:
        """What each container shows."""
        return {name: hold.waiting for name, hold in self._all.items()}

    def left(self) -> list[float]:
        """Seconds that each still lasts."""
        return [hold.until - self._s.clock.monotonic() for hold in self._all.values()]

    def back_off(self, pod: Pod, container: AnyContainer, runtime: RuntimePod) -> bool:
        """Hold a container back that keeps ending, when its last end is not long enough ago; whether it did."""
        last = runtime.container(container.name)
        if last is not None and last.running:
            # Killed in this round, after the state was read: the end before this one counts, as upstream.
            last = runtime.previous(container.name)
        if last is None or not last.exited or last.finished_at is None:
            return False
        backoff = self._s.crash_backoff
        key = f"{uid_of(pod)}/{container.name}/{container_hash(container)}"
        if last.restart_count and last.finished_at < self._began:
            # It kept ending under a kubelet before this one: go on where that was.
            backoff.resume(key, last.restart_count, last.finished_at)
        left = backoff.remaining(key, last.finished_at)
        if left <= timedelta(0):
            backoff.next(key, last.finished_at)
            return False
        where = describe(pod)
        said = f"Back-off restarting failed container {container.name} in pod {where}"
        self._s.event(pod, "Warning", "BackOff", said, container)
        period = format_duration(backoff.period(key))
        message = f"back-off {period} restarting failed container={container.name} pod={where}"
        self.add(container.name, Waiting(CRASH_LOOP_BACK_OFF, message), left.total_seconds())
        return True
