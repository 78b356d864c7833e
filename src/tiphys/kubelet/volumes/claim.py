"""Claimed volumes: persistentVolumeClaim and ephemeral, by way of their bound PersistentVolume.

The claim leads to a volume, and the volume to the plugin of its own source.
https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Pod, Volume
from tiphys.client import NORMAL, WARNING, Client, EventRecorder
from tiphys.kubelet.volumes import expansion
from tiphys.kubelet.volumes.metrics import volume_plugin
from tiphys.kubelet.volumes.plugin import InfeasibleError, Mounted, VolumeContext, VolumeError
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A claim and the volume it is bound to. `read_only`: as the pod wants it."""

    claim: PersistentVolumeClaim
    volume: PersistentVolume
    read_only: bool = False

    @property
    def block(self) -> bool:
        """Whether the pod gets the device and not a file system."""
        return self.volume.spec.volume_mode == "Block"


class PersistentSource(Protocol):
    """One kind of source of a PersistentVolume."""

    name: ClassVar[str]  # as in the name of the directory that `tear_down` is called with

    def handles(self, volume: PersistentVolume) -> bool: ...

    async def set_up(self, context: VolumeContext, claimed: Claimed) -> Mounted:
        """Make the volume available on the node. Raises VolumeError, OSError."""

    async def expand(self, context: VolumeContext, claimed: Claimed, mounted: Mounted) -> bool:
        """Let what is mounted follow the volume, which has grown; False where this kind cannot grow on a node.

        Raises InfeasibleError when it never will, VolumeError and OSError when it has to be tried again.
        """

    async def tear_down(self, directory: Path) -> None:
        """Undo what `set_up` did for one pod in `directory`. Raises OSError when it has to be tried again."""


@dataclass(frozen=True, slots=True)
class ClaimPlugin:
    """Follows a claim to its volume."""

    name: ClassVar[str] = "kubernetes.io/persistent-claim"
    client: Client
    recorder: EventRecorder
    node_name: str
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
        reference = context.volume.persistent_volume_claim
        claimed = Claimed(claim=claim, volume=volume, read_only=bool(reference and reference.read_only))
        _check_use(context, claimed)
        for source in self.sources:
            if source.handles(volume):
                context.made_by(volume_plugin(source.name, volume), block=claimed.block)
                mounted = await source.set_up(context, claimed)
                if expansion.is_due(claim, volume) and not claimed.read_only:
                    await self._grow(source, context, claimed, mounted)
                return replace(mounted, read_only=mounted.read_only or claimed.read_only)
        raise VolumeError(f"no volume plugin matched for volume {volume.metadata.name}")

    async def _grow(self, source: PersistentSource, context: VolumeContext, claimed: Claimed, mounted: Mounted) -> None:
        """The node's part of an expansion. What fails is said and tried again later: the volume works as it is."""
        claim, volume = claimed.claim, claimed.volume
        try:
            if not await source.expand(context, claimed, mounted):
                return
        except (VolumeError, OSError) as error:
            said = f'NodeExpandVolume.NodeExpandVolume failed for volume "{volume.metadata.name}" : {error}'
            self.recorder.event(context.pod, WARNING, "VolumeResizeFailed", said)
            self.recorder.event(claim, WARNING, "VolumeResizeFailed", said)
            if isinstance(error, InfeasibleError):
                await expansion.write_status(self.client, claim, expansion.marked(claim, expansion.INFEASIBLE))
            return
        size = volume.spec.capacity[expansion.STORAGE]
        await expansion.write_status(self.client, claim, expansion.grown(claim, size))
        said = f'MountVolume.NodeExpandVolume succeeded for volume "{volume.metadata.name}" {self.node_name}'
        self.recorder.event(context.pod, NORMAL, "FileSystemResizeSuccessful", said)
        self.recorder.event(claim, NORMAL, "FileSystemResizeSuccessful", said)

    async def tear_down(self, directory: Path) -> None:
        return None  # each source has directories of its own name

    async def _claim(self, pod: Pod, name: str) -> PersistentVolumeClaim:
        try:
            claim = await self.client.get(PersistentVolumeClaim, ObjectName(pod.metadata.namespace, name))
        except NotFoundError as error:
            raise VolumeError(error.message) from error
        if claim.metadata.deletion_timestamp is not None and not claim.status.phase:
            raise VolumeError(f"can't start pod because PVC {pod.metadata.namespace}/{name} is being deleted")
        return claim


def _check_use(context: VolumeContext, claimed: Claimed) -> None:
    """A device cannot be mounted, and a file system is no device. Raises VolumeError."""
    name, pod = context.volume.name, context.pod
    wrong = "volumeMounts" if claimed.block else "volumeDevices"
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        used = container.volume_mounts if claimed.block else container.volume_devices
        if any(one.name == name for one in used):
            mode = claimed.volume.spec.volume_mode or "Filesystem"
            raise VolumeError(f"volume {name} has volumeMode {mode}, but is specified in {wrong}")


def claim_name(pod: Pod, volume: Volume) -> str:
    """The claim behind a volume; a generic ephemeral one is named after pod and volume."""
    if volume.persistent_volume_claim is not None:
        return volume.persistent_volume_claim.claim_name
    return f"{pod.metadata.name}-{volume.name}"
