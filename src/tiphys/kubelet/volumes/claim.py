"""Claimed volumes: persistentVolumeClaim and ephemeral, by way of their bound PersistentVolume.

The claim leads to a volume, the volume to the plugin of its own source: `hostPath` and `local` are
paths of the node; other sources are plugins that register in SOURCES.
https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Pod, Volume
from tiphys.client import Client
from tiphys.kubelet.volumes.host_path import check_host_path
from tiphys.kubelet.volumes.plugin import Mounted, VolumeContext, VolumeError
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

_FILE_BITS: Final = 0o660
_DIRECTORY_BITS: Final = 0o2770


class PersistentSource(Protocol):
    """One kind of source of a PersistentVolume."""

    def handles(self, volume: PersistentVolume) -> bool: ...

    async def set_up(self, context: VolumeContext, volume: PersistentVolume) -> Path:
        """Make the volume available on the node; returns its path."""

    async def tear_down(self, directory: Path) -> None: ...


class LocalSource:
    """`local` and `hostPath` volumes: a path that is there, or for hostPath may be made."""

    def handles(self, volume: PersistentVolume) -> bool:
        return volume.spec.local is not None or volume.spec.host_path is not None

    async def set_up(self, context: VolumeContext, volume: PersistentVolume) -> Path:
        if volume.spec.local is not None:
            path = Path(volume.spec.local.path)
            if not await asyncio.to_thread(path.exists):
                raise VolumeError(f'path "{path}" does not exist')
            if context.fs_group is not None:
                security = context.pod.spec.security_context
                lazily = security is not None and security.fs_group_change_policy == "OnRootMismatch"
                await asyncio.to_thread(give_to_group, path, context.fs_group, lazily=lazily)
            return path
        source = volume.spec.host_path
        assert source is not None
        await asyncio.to_thread(check_host_path, Path(source.path), source.type or "")
        return Path(source.path)

    async def tear_down(self, directory: Path) -> None:
        return None


@dataclass(frozen=True, slots=True)
class ClaimPlugin:
    """Follows a claim to its volume."""

    name: ClassVar[str] = "kubernetes.io/persistent-claim"
    client: Client
    sources: Sequence[PersistentSource]

    def handles(self, volume: Volume) -> bool:
        return volume.persistent_volume_claim is not None or volume.ephemeral is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        name = claim_name(context.pod, context.volume)
        claim = await self._claim(context.pod, name)
        if claim.status.phase != "Bound" or not claim.spec.volume_name:
            raise VolumeError(f"PVC {context.pod.metadata.namespace}/{name} is not bound")
        try:
            volume = await self.client.get(PersistentVolume, ObjectName("", claim.spec.volume_name))
        except NotFoundError as error:
            raise VolumeError(error.message) from error
        for source in self.sources:
            if source.handles(volume):
                path = await source.set_up(context, volume)
                claimed = context.volume.persistent_volume_claim
                return Mounted(path=path, read_only=bool(claimed and claimed.read_only))
        raise VolumeError(f"no volume plugin matched for volume {volume.metadata.name}")

    async def tear_down(self, directory: Path) -> None:
        for source in self.sources:
            await source.tear_down(directory)

    async def _claim(self, pod: Pod, name: str) -> PersistentVolumeClaim:
        try:
            claim = await self.client.get(PersistentVolumeClaim, ObjectName(pod.metadata.namespace, name))
        except NotFoundError as error:
            raise VolumeError(error.message) from error
        if claim.metadata.deletion_timestamp is not None and not claim.status.phase:
            raise VolumeError(f"can't start pod because PVC {pod.metadata.namespace}/{name} is being deleted")
        return claim


def give_to_group(root: Path, group: int, *, lazily: bool) -> None:
    """Let `group` read and write everything below `root`, and own what is made there. Blocks.

    `lazily`: not when the root looks as if that had been done.
    https://kubernetes.io/docs/tasks/configure-pod-container/security-context/
    """
    known = root.stat()
    if not stat.S_ISDIR(known.st_mode):
        return
    if lazily and known.st_gid == group and known.st_mode & _DIRECTORY_BITS == _DIRECTORY_BITS:
        return
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            os.chown(path, -1, group, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) | _FILE_BITS)
        os.chown(directory, -1, group)
        os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) | _DIRECTORY_BITS)


def claim_name(pod: Pod, volume: Volume) -> str:
    """The claim behind a volume; a generic ephemeral one is named after pod and volume."""
    if volume.persistent_volume_claim is not None:
        return volume.persistent_volume_claim.claim_name
    return f"{pod.metadata.name}-{volume.name}"
