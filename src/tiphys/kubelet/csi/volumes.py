"""The two ways to a CSI volume: a PersistentVolume, and inline in the pod."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiphys.api.core.v1 import PersistentVolume, SecretReference, Volume
from tiphys.kubelet.csi.mounter import Mounter
from tiphys.kubelet.csi.record import EPHEMERAL, NAME
from tiphys.kubelet.csi.request import MountRequest, inline_handle
from tiphys.kubelet.volumes.claim import Claimed
from tiphys.kubelet.volumes.expansion import STORAGE
from tiphys.kubelet.volumes.plugin import Mounted, Usage, VolumeContext, VolumeError
from tiphys.machinery.quantity import parse_cached


@dataclass(frozen=True, slots=True)
class PersistentCSI:
    """PersistentVolumes whose source is `csi`."""

    name: ClassVar[str] = NAME
    mounter: Mounter

    def handles(self, volume: PersistentVolume) -> bool:
        return volume.spec.csi is not None

    async def set_up(self, context: VolumeContext, claimed: Claimed) -> Mounted:
        return await self.mounter.mount(_request(context, claimed), self._directory(context, claimed))

    async def expand(self, context: VolumeContext, claimed: Claimed, mounted: Mounted) -> bool:
        source = claimed.volume.spec.csi
        assert source is not None
        size = parse_cached(claimed.volume.spec.capacity[STORAGE]).value()
        directory = self._directory(context, claimed)
        return await self.mounter.expand(_request(context, claimed), directory, size, source.node_expand_secret_ref)

    async def tear_down(self, directory: Path) -> None:
        await self.mounter.unmount(directory)

    async def usage(self, path: Path) -> Usage | None:
        try:
            return await self.mounter.usage(path.parent)
        except VolumeError:
            return None

    def _directory(self, context: VolumeContext, claimed: Claimed) -> Path:
        assert context.place is not None
        return context.place(self.name, claimed.volume.metadata.name)


def _request(context: VolumeContext, claimed: Claimed) -> MountRequest:
    spec = claimed.volume.spec
    source = spec.csi
    assert source is not None
    return MountRequest(
        pod=context.pod,
        driver=source.driver,
        handle=source.volume_handle,
        volume=claimed.volume.metadata.name,
        block=claimed.block,
        access_modes=spec.access_modes,
        fs_type=source.fs_type,
        mount_options=spec.mount_options,
        attributes=source.volume_attributes,
        read_only=claimed.read_only or bool(source.read_only),
        stage_secret=source.node_stage_secret_ref,
        publish_secret=source.node_publish_secret_ref,
    )


@dataclass(frozen=True, slots=True)
class InlineCSI:
    """`csi` volumes of a pod. https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#csi-ephemeral-volumes"""

    name: ClassVar[str] = NAME
    mounter: Mounter

    def handles(self, volume: Volume) -> bool:
        return volume.csi is not None

    async def set_up(self, context: VolumeContext) -> Mounted:
        source, pod = context.volume.csi, context.pod
        assert source is not None
        secret = source.node_publish_secret_ref
        request = MountRequest(
            pod=pod,
            driver=source.driver,
            handle=inline_handle(pod.metadata.uid, context.volume.name),
            volume=context.volume.name,
            lifecycle=EPHEMERAL,
            fs_type=source.fs_type or "",
            attributes=source.volume_attributes,
            read_only=bool(source.read_only),
            publish_secret=SecretReference(name=secret.name, namespace=pod.metadata.namespace) if secret else None,
        )
        return await self.mounter.mount(request, context.directory)

    async def tear_down(self, directory: Path) -> None:
        await self.mounter.unmount(directory)  # by its record: of either kind, once
