"""The volumes of one running pod: set up once, and again when they are due."""

from __future__ import annotations

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.volumes.manager import MountError, PodVolumes


class CurrentVolumes:
    """What is mounted for a pod, and when to look again."""

    def __init__(self, services: PodServices) -> None:
        self._s = services
        self._due: float | None = None  # monotonic seconds
        self.ready: PodVolumes | None = None

    def look_now(self) -> None:
        """Something that they show has changed."""
        self._due = 0.0

    def left(self) -> list[float]:
        """Seconds until they are due; nothing when that is never."""
        return [self._due - self._s.clock.monotonic()] if self._due is not None else []

    async def current(self, pod: Pod, pod_ips: tuple[str, ...], retry: float) -> PodVolumes:
        """The pod's volumes, set up or brought up to date where that is due.

        A renewal that fails is tried again in `retry` seconds; raises MountError when none was ready before.
        """
        due = self._due is not None and self._due <= self._s.clock.monotonic()
        if self.ready is not None and not due:
            return self.ready
        self._due = None
        node = self._s.node
        try:
            volumes = await self._s.volumes.set_up(
                pod, host_ips=node.host_ips, allocatable=node.allocatable, pod_ips=pod_ips
            )
        except MountError as error:
            for message in error.failures.values():
                self._s.event(pod, "Warning", "FailedMount", message)
            if self.ready is None:
                raise
            # What is mounted stays as it is; only its renewal failed.
            self._look_in(retry)
            return self.ready
        self.ready = volumes
        if volumes.refresh_after is not None:
            self._look_in(volumes.refresh_after)
        return volumes

    def _look_in(self, seconds: float) -> None:
        """Be due then; a change that was told while they were set up keeps its earlier turn."""
        due = self._s.clock.monotonic() + seconds
        self._due = due if self._due is None else min(self._due, due)
