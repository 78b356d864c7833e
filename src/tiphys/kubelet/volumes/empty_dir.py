"""emptyDir volumes, on disk or in memory. https://kubernetes.io/docs/concepts/storage/volumes/#emptydir"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import Pod, Volume
from tiphys.kubelet.mounts import is_mount, mount_tmpfs, unmount
from tiphys.kubelet.resources import fully_limited, pod_amounts, whole
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError
from tiphys.machinery.quantity import Quantity


@dataclass(frozen=True, slots=True)
class EmptyDirPlugin:
    """A directory that lives as long as the pod."""

    name: ClassVar[str] = "kubernetes.io/empty-dir"

    def handles(self, volume: Volume) -> bool:
        return volume.empty_dir is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source = context.volume.empty_dir
        assert source is not None
        if source.medium not in ("", "Memory"):
            raise VolumeError(f'unknown storage medium "{source.medium}"')
        size = memory_size(context.pod, source.size_limit) if source.medium == "Memory" else None
        await asyncio.to_thread(_make, context.directory, source.medium == "Memory", size, context.fs_group)
        return Mounted(path=context.directory)

    async def tear_down(self, directory: Path) -> None:
        await asyncio.to_thread(unmount, directory)


def memory_size(pod: Pod, size_limit: str) -> int | None:
    """Bytes of a Memory volume: its own limit, but never more than the pod's memory limit."""
    bounds = []
    if size_limit and (limit := Quantity.parse(size_limit).value()) > 0:
        bounds.append(limit)
    if fully_limited(pod, "memory"):
        bounds.append(whole(pod_amounts(pod, "limits")))
    return min(bounds) if bounds else None


def _make(directory: Path, in_memory: bool, size: int | None, group: int | None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if in_memory and not is_mount(directory):
        mount_tmpfs(directory, size=size, mode=0o777)
    # Any user of the pod may write; with an fsGroup, what they make belongs to it.
    mode = 0o777
    if group is not None:
        os.chown(directory, -1, group)
        mode = 0o2777
    directory.chmod(mode)
