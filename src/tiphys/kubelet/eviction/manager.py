"""Watches the node's resources and evicts pods before the kernel has to choose.

Every ten seconds the signals are compared with the hard and soft thresholds. A crossed one sets its
pressure condition, which then stays for `evictionPressureTransitionPeriod` after the signal has
recovered; disk is first sought by removing images nobody uses, and only then one pod a round goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Pod, PodCondition
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.eviction.local import has_limits, over_limit
from tiphys.kubelet.eviction.ranking import rank
from tiphys.kubelet.eviction.signals import (
    IMAGEFS,
    IMAGEFS_INODES,
    MEMORY,
    NODEFS,
    NODEFS_INODES,
    PIDS,
    Observation,
    Threshold,
    measure,
    thresholds_of,
)
from tiphys.kubelet.gc.images import ImageCollector
from tiphys.kubelet.node.machine import Machine, read_machine
from tiphys.kubelet.pod import describe, uid_of
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.worker import PodWorker
from tiphys.kubelet.status.pod_status import Verdict
from tiphys.machinery.time import parse_duration

log = get_logger(__name__)

# https://kubernetes.io/docs/reference/instrumentation/metrics/
EVICTIONS: Final = REGISTRY.counter(
    "kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal", ("eviction_signal",)
)
INTERVAL: Final = 10.0  # seconds
_CONDITIONS: Final = {
    MEMORY: "memory",
    NODEFS: "disk",
    NODEFS_INODES: "disk",
    IMAGEFS: "disk",
    IMAGEFS_INODES: "disk",
    PIDS: "pid",
}
_RESOURCES: Final = {
    MEMORY: "memory",
    NODEFS: "ephemeral-storage",
    IMAGEFS: "ephemeral-storage",
    NODEFS_INODES: "inodes",
    IMAGEFS_INODES: "inodes",
    PIDS: "pids",
}


class EvictionManager:
    """The pressure on the node, and what is done about it."""

    def __init__(self, services: PodServices, manager: PodManager) -> None:
        self._services = services
        self._manager = manager
        config = services.config
        self._hard = thresholds_of(config.eviction_hard)
        self._soft = thresholds_of(config.eviction_soft)
        self._crossed_since: dict[Threshold, float] = {}
        self._last_pressure: dict[str, float] = {}
        self._machine: Machine | None = None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def memory_pressure(self) -> bool:
        return self._pressed("memory")

    @property
    def disk_pressure(self) -> bool:
        return self._pressed("disk")

    @property
    def pid_pressure(self) -> bool:
        return self._pressed("pid")

    async def run(self) -> None:
        """Look every ten seconds until cancelled."""
        self._machine = await asyncio.to_thread(read_machine, self._services.flags.root_dir)
        while True:
            try:
                await self.look()
            except CRIError as error:
                log.warning("looking for pressure on the node failed: %s", error)
            await self._services.clock.sleep(INTERVAL)

    async def look(self) -> None:
        """One round: measure, set conditions, and evict at most one pod. Raises CRIError."""
        assert self._machine is not None
        images = await self._image_directory()
        seen = await asyncio.to_thread(measure, self._machine, self._services.flags.root_dir, images)
        await self._enforce_local_limits()
        before = (self.memory_pressure, self.disk_pressure, self.pid_pressure)
        due = self._due(seen)
        if before != (self.memory_pressure, self.disk_pressure, self.pid_pressure):
            self.on_change()
        if not due:
            return
        threshold = min(due, key=lambda item: item.signal != MEMORY)  # memory first: it kills fastest
        if _CONDITIONS[threshold.signal] == "disk":
            await ImageCollector(self._services, self._manager).remove_unused()
            seen = await asyncio.to_thread(measure, self._machine, self._services.flags.root_dir, images)
            if not threshold.crossed(seen[threshold.signal]):
                return
        await self._evict_one(threshold, seen[threshold.signal])

    async def _enforce_local_limits(self) -> None:
        """Evict pods that use more local storage than they have limited themselves to."""
        workers = list(self._manager.workers.values())
        layers = await self._layers() if any(has_limits(worker.pod) for worker in workers) else {}
        for worker in workers:
            if worker.pod.metadata.deletion_timestamp is None and worker.runtime.running:
                own = layers.get(worker.uid, {})
                excess = await asyncio.to_thread(over_limit, worker.pod, self._services.paths, own)
                if excess is not None:
                    self._services.event(worker.pod, "Warning", "Evicted", excess.message)
                    self._evict(worker, excess.signal, excess.message, 1.0)

    def _due(self, seen: dict[str, Observation]) -> list[Threshold]:
        """Note which thresholds are crossed; returns those that call for eviction now."""
        now = self._services.clock.monotonic()
        due = []
        for threshold in (*self._hard, *self._soft):
            observed = seen.get(threshold.signal)
            if observed is None or not threshold.crossed(observed):
                self._crossed_since.pop(threshold, None)
                continue
            since = self._crossed_since.setdefault(threshold, now)
            self._last_pressure[_CONDITIONS[threshold.signal]] = now
            if threshold in self._hard or now - since >= self._grace(threshold.signal):
                due.append(threshold)
        return due

    def _grace(self, signal: str) -> float:
        text = self._services.config.eviction_soft_grace_period.get(signal, "0s")
        return parse_duration(text).total_seconds()

    def _pressed(self, kind: str) -> bool:
        last = self._last_pressure.get(kind)
        if last is None:
            return False
        period = self._services.config.eviction_pressure_transition_period.total_seconds()
        return self._services.clock.monotonic() - last < period

    async def _evict_one(self, threshold: Threshold, seen: Observation) -> None:
        resource = _RESOURCES[threshold.signal]
        usage = await self._usage(resource)
        running = [pod for pod in self._manager.active() if pod.metadata.deletion_timestamp is None]
        for pod in rank(running, lambda pod: usage.get(pod.metadata.uid, 0), resource):
            worker = self._manager.workers.get(uid_of(pod))
            if worker is None:
                continue
            message = (
                f"The node was low on resource: {resource}. Threshold quantity: "
                f"{threshold.amount(seen.capacity)}, available: {seen.available}. "
            )
            log.info("evicting pod %s: %s", describe(pod), message)
            self._services.event(pod, "Warning", "Evicted", message)
            grace = 0.0 if threshold in self._hard else float(self._services.config.eviction_max_pod_grace_period)
            self._evict(worker, threshold.signal, message, grace)
            return

    def _evict(self, worker: PodWorker, signal: str, message: str, grace: float) -> None:
        if worker.evict(evicted(message, worker.pod), grace):
            EVICTIONS.labels(signal).inc()

    async def _usage(self, resource: str) -> dict[str, int]:
        """Use by pod uid; what is not measured by pod counts as nothing and leaves priority to decide."""
        if resource != "memory":
            return {}
        stats = await self._services.runtime.pod_stats()
        return {item.attributes.metadata.uid: item.linux.memory.working_set_bytes.value for item in stats}

    async def _layers(self) -> dict[str, dict[str, int]]:
        """Bytes in the writable layer by pod uid and container name; of a restarted container the newest counts."""
        found: dict[str, dict[str, int]] = {}
        for item in sorted(
            await self._services.runtime.container_stats(), key=lambda item: item.attributes.metadata.attempt
        ):
            own = found.setdefault(item.attributes.labels.get(labels.POD_UID, ""), {})
            own[item.attributes.metadata.name] = item.writable_layer.used_bytes.value
        return found

    async def _image_directory(self) -> Path | None:
        answer = await self._services.runtime.image_fs()
        for item in answer.image_filesystems:
            return Path(item.fs_id.mountpoint)
        return None


def evicted(message: str, pod: Pod) -> Verdict:
    """The end of a pod by node pressure."""
    condition = PodCondition(
        type="DisruptionTarget",
        status="True",
        reason="TerminationByKubelet",
        message=message,
        observed_generation=pod.metadata.generation,
    )
    return Verdict(reason="Evicted", message=message, condition=condition)
