"""How full each file system behind a pod's volume is: for /stats/summary, and of claims for /metrics.

A CSI driver that measures its volumes is asked; any other is counted by its file system alone, because
a walk of every file would cost too much here. A claim is named with its volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
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
PATIENCE: Final = 5.0  # seconds that a scrape waits for volumes; Prometheus gives up after ten
# What an entry has, under the names of https://kubernetes.io/docs/reference/instrumentation/metrics/
_FAMILIES: Final = (
    ("capacityBytes", "capacity_bytes", "Capacity in bytes of the volume"),
    ("availableBytes", "available_bytes", "Number of available bytes in the volume"),
    ("usedBytes", "used_bytes", "Number of used bytes in the volume"),
    ("inodes", "inodes", "Maximum number of inodes in the volume"),
    ("inodesFree", "inodes_free", "Number of free inodes in the volume"),
    ("inodesUsed", "inodes_used", "Number of used inodes in the volume"),
)


async def volume_stats(pod: Pod, mounted: Mapping[str, Mounted], measure: Measure) -> list[Json]:
    """One entry a mounted volume, in the order of the pod's. Paths of the node itself are not counted as the pod's."""
    counted = [volume for volume in pod.spec.volumes if volume.host_path is None and volume.name in mounted]
    found = await asyncio.gather(*(_one(pod, volume, mounted[volume.name], measure) for volume in counted))
    return [entry for entry in found if entry is not None]


async def _one(pod: Pod, volume: Volume, mounted: Mounted, measure: Measure) -> Json | None:
    if mounted.device:
        return None
    usage = await measure(mounted.path)
    stats = _from_usage(usage) if usage is not None else await asyncio.to_thread(file_system, mounted.path)
    if not stats:
        return None
    entry: Json = {**stats, "name": volume.name}
    if volume.persistent_volume_claim is not None or volume.ephemeral is not None:
        entry["pvcRef"] = {"name": claim_name(pod, volume), "namespace": pod.metadata.namespace}
    return entry


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


class ClaimStats:
    """Measures claimed volumes for scrapes: `kubelet_volume_stats_*`."""

    def __init__(self, measure: Measure, patience: float = PATIENCE) -> None:
        self._measure = measure
        self._patience = patience
        # A file system that does not answer keeps a thread: one, however often it is scraped.
        self._measuring: dict[tuple[str, str], asyncio.Task[Json | None]] = {}

    async def exposition(self, pods: Iterable[tuple[Pod, Mapping[str, Mounted]]]) -> bytes:
        """The claims of these pods and their mounted volumes in the text format, measured now.

        A claim that several pods use is one series; one that is a block device, or does not answer in time, has none.
        """
        for pod, mounted in pods:
            for volume in pod.spec.volumes:
                if volume.name in mounted and (volume.persistent_volume_claim or volume.ephemeral) is not None:
                    claim = (pod.metadata.namespace, claim_name(pod, volume))
                    if claim not in self._measuring:
                        work = _one(pod, volume, mounted[volume.name], self._measure)
                        self._measuring[claim] = asyncio.create_task(work)
        if not self._measuring:
            return b""
        await asyncio.wait(self._measuring.values(), timeout=self._patience)
        ended = {claim: task for claim, task in self._measuring.items() if task.done()}
        for claim in ended:
            del self._measuring[claim]
        found: dict[tuple[str, str], Json] = {}
        for claim, task in ended.items():
            if (error := task.exception()) is not None:
                log.warning("measuring the volume of claim %s/%s failed: %s", *claim, error)
            elif (entry := task.result()) is not None:
                found[claim] = entry
        return _exposition(found)

    async def close(self) -> None:
        """Give up what is still being measured."""
        for task in self._measuring.values():
            task.cancel()
        await asyncio.gather(*self._measuring.values(), return_exceptions=True)


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
