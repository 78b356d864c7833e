"""How full each file system behind a pod's volume is: for /stats/summary, and of claims for /metrics.

A CSI driver that measures its volumes is asked; any other is counted by its file system alone, because
a walk of every file would cost too much here. A claim is named with its volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import Pod, Volume
from tiphys.base.log import get_logger
from tiphys.base.metrics import Registry
from tiphys.kubelet.server.stats import file_system
from tiphys.kubelet.volumes.claim import claim_name
from tiphys.kubelet.volumes.plugin import Mounted, Usage
from tiphys.machinery.time import format_time

log = get_logger(__name__)

Json = dict[str, Any]
Measure = Callable[[Path], Awaitable[Usage | None]]  # by whoever mounted it; None: nobody else knows
PodMounts = tuple[Pod, Mapping[str, Mounted]]  # by the volume's name
PATIENCE: Final = 5.0  # seconds that a scrape waits for volumes; Prometheus gives up after ten
THREADS: Final = 8
# What an entry has, under the names of https://kubernetes.io/docs/reference/instrumentation/metrics/
_FAMILIES: Final = (
    ("capacityBytes", "capacity_bytes", "Capacity in bytes of the volume"),
    ("availableBytes", "available_bytes", "Number of available bytes in the volume"),
    ("usedBytes", "used_bytes", "Number of used bytes in the volume"),
    ("inodes", "inodes", "Maximum number of inodes in the volume"),
    ("inodesFree", "inodes_free", "Number of free inodes in the volume"),
    ("inodesUsed", "inodes_used", "Number of used inodes in the volume"),
)


class VolumeStats:
    """Measures mounted volumes for whoever asks, each at most once at a time.

    A file system that does not answer keeps one of `THREADS` threads, however often it is asked about, and none that
    the kubelet does its other work in.
    """

    def __init__(self, measure: Measure, patience: float = PATIENCE) -> None:
        self._measure = measure
        self._patience = patience
        self._threads = ThreadPoolExecutor(THREADS, "volume-stats")
        self._measuring: dict[tuple[str, str], asyncio.Task[Json | None]] = {}

    async def of_pods(self, pods: Iterable[PodMounts]) -> list[list[Json]]:
        """For each pod one entry a mounted volume, in the order of the pod's.

        Paths of the node itself are not counted as the pod's; what does not answer in time is left out.
        """
        wanted = [
            [
                (pod, volume, mounted[volume.name])
                for volume in pod.spec.volumes
                if volume.host_path is None and volume.name in mounted
            ]
            for pod, mounted in pods
        ]
        found = iter(await self._answers([one for of_pod in wanted for one in of_pod]))
        return [[entry for _ in of_pod if (entry := next(found)) is not None] for of_pod in wanted]

    async def exposition(self, pods: Iterable[PodMounts]) -> bytes:
        """The claims of these pods and their mounted volumes in the text format, measured now.

        A claim that several pods use is one series; one that is a block device, or does not answer in time, has none.
        """
        wanted: dict[tuple[str, str], tuple[Pod, Volume, Mounted]] = {}
        for pod, mounted in pods:
            for volume in pod.spec.volumes:
                if volume.name in mounted and (volume.persistent_volume_claim or volume.ephemeral) is not None:
                    claim = (pod.metadata.namespace, claim_name(pod, volume))
                    wanted.setdefault(claim, (pod, volume, mounted[volume.name]))
        found = await self._answers(list(wanted.values()))
        return _exposition({claim: entry for claim, entry in zip(wanted, found, strict=True) if entry is not None})

    async def close(self) -> None:
        """Give up what is still being measured."""
        left = list(self._measuring.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answers(self, wanted: Sequence[tuple[Pod, Volume, Mounted]]) -> list[Json | None]:
        tasks = [self._task(*one) for one in wanted]
        if tasks:
            await asyncio.wait(tasks, timeout=self._patience)
        return [_result(task) for task in tasks]

    def _task(self, pod: Pod, volume: Volume, mounted: Mounted) -> asyncio.Task[Json | None]:
        key = (pod.metadata.uid, volume.name)
        task = self._measuring.get(key)
        if task is None:
            task = self._measuring[key] = asyncio.create_task(self._one(pod, volume, mounted))
            task.add_done_callback(lambda _: self._measuring.pop(key))
        return task

    async def _one(self, pod: Pod, volume: Volume, mounted: Mounted) -> Json | None:
        if mounted.device:
            return None
        try:
            usage = await self._measure(mounted.path)
        except Exception as error:
            name = f"{pod.metadata.namespace}/{pod.metadata.name}"
            log.warning("measuring volume %s of pod %s failed: %s", volume.name, name, error)
            return None
        if usage is not None:
            stats = _from_usage(usage)
        else:
            stats = await asyncio.get_running_loop().run_in_executor(self._threads, file_system, mounted.path)
        if not stats:
            return None
        entry: Json = {**stats, "name": volume.name}
        if volume.persistent_volume_claim is not None or volume.ephemeral is not None:
            entry["pvcRef"] = {"name": claim_name(pod, volume), "namespace": pod.metadata.namespace}
        return entry


def _result(task: asyncio.Task[Json | None]) -> Json | None:
    return task.result() if task.done() and not task.cancelled() else None


def _from_usage(usage: Usage) -> Json:
    known = {
        "availableBytes": usage.available,
        "capacityBytes": usage.capacity,
        "usedBytes": usage.used,
        "inodesFree": usage.inodes_free,
        "inodes": usage.inodes,
        "inodesUsed": usage.inodes_used,
    }
    return {
        "time": format_time(datetime.now(UTC)),
        **{name: value for name, value in known.items() if value is not None},
    }


def _exposition(claims: Mapping[tuple[str, str], Json]) -> bytes:
    registry = Registry()
    for key, name, text in _FAMILIES:
        gauge = registry.gauge(
            f"kubelet_volume_stats_{name}", f"[ALPHA] {text}", ("namespace", "persistentvolumeclaim")
        )
        for claim, entry in claims.items():
            if key in entry:
                gauge.labels(*claim).set(entry[key])
    return registry.expose() if claims else b""
