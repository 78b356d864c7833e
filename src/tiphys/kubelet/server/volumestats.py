"""The volumes of /stats/summary: how full each file system behind a pod's volume is.

A CSI driver that measures its volumes is asked; any other is counted by its file system alone, because
a walk of every file would cost too much here. A claim is named with its volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tiphys.api.core.v1 import Pod, Volume
from tiphys.kubelet.server.stats import file_system
from tiphys.kubelet.volumes.claim import claim_name
from tiphys.kubelet.volumes.plugin import Mounted, Usage
from tiphys.machinery.time import format_time

Json = dict[str, Any]
Measure = Callable[[Path], Awaitable[Usage | None]]  # by whoever mounted it; None: nobody else knows


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
