"""The resize of one pod, from the wish to its being in force. Belongs to the pod's worker.

```
 seen(pod) ──► consider() ──► allocation ──► apply(): widen the pod's cgroup, change containers, fit the cgroup
               │ no room: PodResizePending       │ not yet: PodResizeInProgress
```
A container whose resizePolicy wants a restart is not changed but ended (`restarts`) and started anew by the worker.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tiphys.api.core.v1 import Pod, PodCondition, ResourceRequirements
from tiphys.base.log import get_logger
from tiphys.kubelet.cgroups.tree import pod_limits
from tiphys.kubelet.containers.limits import pod_resources
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pod import all_containers, container_named, describe, uid_of
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.resize.actuate import ResizeError, check_memory, update_container
from tiphys.kubelet.resize.allocation import NOTHING, Allocation, allocation_of, apply, bounded, differs, recovered
from tiphys.kubelet.resize.conditions import event_details, pending_condition, progress_condition
from tiphys.kubelet.resize.feasibility import INFEASIBLE, Pending, judge
from tiphys.kubelet.resize.plan import changes, widest

log = get_logger(__name__)

ERROR_RETRY: Final = 10.0  # seconds until a resize that could not be put in force is tried again


class PodResize:
    """What the pod was granted, what is in force, and how far the way from one to the other is."""

    def __init__(self, services: PodServices, pod: Pod) -> None:
        self._s = services
        self._desired = pod
        known = pod.status.start_time is not None
        self._allocation: Allocation = recovered(pod) if known else allocation_of(pod)
        # By container name: what its newest run was started with or changed to, and with what the pod bounds it to.
        self._in_force: dict[str, ResourceRequirements] = dict(self._allocation.containers) if known else {}
        granted = apply(pod, self._allocation)
        self._bounded = {c.name: bounded(granted, c) for c in all_containers(granted)} if known else {}
        self._pod_in_force = self._allocation.pod
        self._limits = pod_limits(granted)  # what the pod's cgroup has
        self.pending: Pending | None = None
        self.pending_since = 0.0
        self._generation: int | None = None  # of the resize in progress; None without one
        self._error = ""
        self._retry_at = 0.0

    # -- wishes --------------------------------------------------------------------------------------

    def seen(self, pod: Pod) -> Pod:
        """The source has a newer version; returns it with the resources that it was granted."""
        self._desired = pod
        return apply(pod, self._allocation)

    def consider(self) -> Pod:
        """Grant what is asked for if the node has room for it; returns the pod as it is granted now."""
        desired = self._desired
        if not differs(desired, self._allocation):
            self.pending = None
            return apply(desired, self._allocation)
        why = self._s.containers.unchangeable(desired)
        pending = (
            Pending(INFEASIBLE, why)
            if why
            else judge(desired, self._s.room.others(uid_of(desired)), self._s.node.allocatable)
        )
        if pending is not None:
            self._wait(pending)
            return apply(desired, self._allocation)
        self.pending = None
        self._allocation = allocation_of(desired)
        self._generation = desired.metadata.generation or 0
        self._error, self._retry_at = "", 0.0
        self._event("Normal", "ResizeStarted", "Pod resize started")
        self._s.room.changed()  # it may have become smaller
        return desired

    def _wait(self, pending: Pending) -> None:
        if self.pending is None or self.pending.reason != pending.reason:
            self._event("Warning", f"Resize{pending.reason}", f"Pod resize {pending.reason}", pending.message)
            self.pending_since = self._s.clock.monotonic()
        self.pending = pending

    def _event(self, kind: str, reason: str, words: str, error: str = "") -> None:
        details = event_details(self._desired, self._desired.metadata.generation, error)
        self._s.event(self._desired, kind, reason, f"{words}: {details}")

    # -- putting it in force -------------------------------------------------------------------------

    def started(self, pod: Pod, name: str) -> None:
        """A container was started with what `pod` says of it, or has it now."""
        container = container_named(pod, name)
        if container is not None:
            self._in_force[name] = container.resources or NOTHING
            self._bounded[name] = bounded(pod, container)

    def restarts(self, pod: Pod, runtime: RuntimePod) -> frozenset[str]:
        """Ids of running containers that must be started anew to get what they were granted."""
        if self._generation is None or self._error:
            return frozenset()
        return frozenset(change.running.id for change in changes(pod, runtime, self._bounded) if change.restart)

    @property
    def retry_at(self) -> float | None:
        """When to try again what failed, in monotonic seconds."""
        return self._retry_at if self._error else None

    async def apply(self, pod: Pod, runtime: RuntimePod) -> bool:
        """Put in force what can be without a restart; True when anything was done. Failures wait for `retry_at`."""
        if self._generation is None or self._s.clock.monotonic() < self._retry_at:
            return False
        todo = list(changes(pod, runtime, self._bounded))
        try:
            if runtime.ready_sandbox is not None:
                await check_memory(self._s, pod, self._limits, runtime, todo)
                if todo:
                    await self._fit(pod, wide=True)
            for change in todo:
                if not change.restart:
                    await update_container(self._s, pod, change)
                    self.started(pod, change.spec.name)
        except (ResizeError, CRIError, OSError) as error:
            self._failed(str(error))
            return True
        self._error = ""
        if not any(change.restart for change in todo):
            await self._done(pod, runtime)
        return True

    async def _fit(self, pod: Pod, *, wide: bool) -> None:
        """Give the pod's cgroup its new limits; `wide` while containers still have their old ones."""
        limits = pod_limits(pod)
        if wide:
            limits = widest(self._limits, limits)
        await asyncio.to_thread(self._s.cgroups.resize_pod, pod, limits)
        self._limits = limits

    async def _done(self, pod: Pod, runtime: RuntimePod) -> None:
        try:
            if runtime.ready_sandbox is not None:
                await self._fit(pod, wide=False)
                await self._s.runtime.update_sandbox_resources(runtime.ready_sandbox.id, pod_resources(pod))
        except (CRIError, OSError) as error:
            self._failed(str(error))
            return
        self._pod_in_force = self._allocation.pod
        self._generation = None
        self._event("Normal", "ResizeCompleted", "Pod resize completed")

    def _failed(self, error: str) -> None:
        if error != self._error:
            log.warning("resize of pod %s: %s", describe(self._desired), error)
            self._event("Warning", "ResizeError", "Pod resize error", error)
        self._error = error
        self._retry_at = self._s.clock.monotonic() + ERROR_RETRY

    # -- telling -------------------------------------------------------------------------------------

    def in_force(self, name: str) -> ResourceRequirements | None:
        """What the container runs with; None when it was not started yet."""
        return self._in_force.get(name)

    @property
    def pod_in_force(self) -> ResourceRequirements | None:
        """The pod's own resources as they are in force."""
        return self._pod_in_force

    def conditions(self) -> tuple[PodCondition, ...]:
        """The conditions of a resize that waits or goes on."""
        found = []
        if self.pending is not None:
            found.append(pending_condition(self.pending, self._desired.metadata.generation))
        if self._generation is not None:
            found.append(progress_condition(self._error, self._generation))
        return tuple(found)
