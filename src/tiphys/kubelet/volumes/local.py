"""PersistentVolumes that are a path of the node: `local` and `hostPath`.

```
 local, directory            the path itself
 local, block device         Filesystem: mounted once a node, bound for each pod
                               <root>/plugins/kubernetes.io/local-volume/mounts/<volume>
                               <root>/pods/<uid>/volumes/kubernetes.io~local-volume/<volume>
                             Block: the device itself
 hostPath                    the path itself, made where its type asks for it
```
https://kubernetes.io/docs/concepts/storage/volumes/#local
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import PersistentVolume
from tiphys.kubelet.disks import grow_file_system, is_block_device, mount_device
from tiphys.kubelet.mounts import bind, is_mount, unmount
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.volumes.claim import Claimed
from tiphys.kubelet.volumes.expansion import LOOK_EVERY
from tiphys.kubelet.volumes.host_path import check_host_path
from tiphys.kubelet.volumes.ownership import apply_fs_group
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Local and hostPath volumes."""

    name: ClassVar[str] = "kubernetes.io/local-volume"
    paths: Paths
    # One mount or unmount of a device's file system at a time.
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def handles(self, volume: PersistentVolume) -> bool:
        return volume.spec.local is not None or volume.spec.host_path is not None

    async def set_up(self, context: VolumeContext, claimed: Claimed) -> Mounted:
        volume = claimed.volume
        if volume.spec.local is None:
            source = volume.spec.host_path
            assert source is not None
            await asyncio.to_thread(check_host_path, Path(source.path), source.type or "")
            return Mounted(path=Path(source.path), device=claimed.block)
        path = Path(volume.spec.local.path)
        if not await asyncio.to_thread(path.exists):
            raise VolumeError(f'path "{path}" does not exist')
        is_device = await asyncio.to_thread(is_block_device, path)
        if claimed.block:
            if not is_device:
                raise VolumeError(f"path {path} is not a block device")
            return Mounted(path=path, device=True)
        if is_device:
            assert context.place is not None
            target = context.place(self.name, volume.metadata.name)
            async with self._lock:
                await asyncio.to_thread(self._mount, volume, path, target)
            path = target
        await asyncio.to_thread(apply_fs_group, context.pod, path)
        return Mounted(path=path, refresh_after=LOOK_EVERY)

    async def expand(self, context: VolumeContext, claimed: Claimed, mounted: Mounted) -> bool:
        source = claimed.volume.spec.local
        if source is None:
            return False
        device = Path(source.path)
        if not claimed.block and await asyncio.to_thread(is_block_device, device):
            async with self._lock:
                await asyncio.to_thread(grow_file_system, device, self._staged(claimed.volume.metadata.name))
        return True

    async def tear_down(self, directory: Path) -> None:
        async with self._lock:
            await asyncio.to_thread(self._unmount, directory)

    def _staged(self, volume: str) -> Path:
        return self.paths.plugins / self.name / "mounts" / volume

    def _mount(self, volume: PersistentVolume, device: Path, target: Path) -> None:
        staged = self._staged(volume.metadata.name)
        source = volume.spec.local
        assert source is not None
        if not is_mount(staged):
            mount_device(device, staged, kind=source.fs_type or "", options=volume.spec.mount_options)
        if not is_mount(target):
            target.mkdir(mode=0o750, parents=True, exist_ok=True)
            bind(staged, target)

    def _unmount(self, directory: Path) -> None:
        unmount(directory)
        directory.rmdir()
        staged = self._staged(directory.name)
        others = self.paths.pods.glob(f"*/volumes/{self.name.replace('/', '~')}/{directory.name}")
        if staged.is_dir() and not any(others):
            unmount(staged)
            staged.rmdir()
