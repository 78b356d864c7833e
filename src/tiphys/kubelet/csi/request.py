"""What a driver is told of a volume, and what it tells. Pure: from specs to the fields of its requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from tiphys.api.core.v1 import Pod, SecretReference
from tiphys.api.csi import csi_pb2 as csi
from tiphys.api.storage.v1 import CSIDriverSpec
from tiphys.kubelet.csi.drivers import Driver
from tiphys.kubelet.csi.record import EPHEMERAL, PERSISTENT
from tiphys.kubelet.volumes.plugin import Usage, VolumeError

_Mode = csi.VolumeCapability.AccessMode
_RPC = csi.NodeServiceCapability.RPC
TOKENS: Final = "csi.storage.k8s.io/serviceAccount.tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """One volume that a pod wants mounted. `access_modes` is empty for an inline volume."""

    pod: Pod
    driver: str
    handle: str
    volume: str  # name of the PersistentVolume, or of the pod's inline volume
    lifecycle: str = PERSISTENT
    block: bool = False
    access_modes: Sequence[str] = ()
    fs_type: str = ""
    mount_options: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = False
    stage_secret: SecretReference | None = None
    publish_secret: SecretReference | None = None


def inline_handle(pod_uid: str, volume: str) -> str:
    """The id of an inline volume, which nobody but us names."""
    return "csi-" + sha256(f"{pod_uid}{volume}".encode()).hexdigest()


def check_lifecycle(request: MountRequest, spec: CSIDriverSpec | None) -> None:
    """A driver mounts inline only if its CSIDriver says so. Raises VolumeError."""
    modes = tuple(spec.volume_lifecycle_modes) if spec is not None else ()
    if request.lifecycle in (modes or (PERSISTENT,)):
        return
    what = f"volume mode {request.lifecycle!r} not supported by driver {request.driver}".replace("'", '"')
    if spec is None:
        raise VolumeError(f"{what} (no CSIDriver object)")
    raise VolumeError(f"{what} (only supports {list(modes)})".replace("'", '"'))


def needs_attachment(request: MountRequest, spec: CSIDriverSpec | None) -> bool:
    """A driver that says nothing wants its volumes attached."""
    return request.lifecycle == PERSISTENT and (spec is None or spec.attach_required is not False)


def capability(request: MountRequest, driver: Driver) -> csi.VolumeCapability:
    """How the volume is to be accessed."""
    made = csi.VolumeCapability(access_mode=_Mode(mode=_mode(request, driver)))
    if request.block:
        made.block.SetInParent()
        return made
    made.mount.fs_type = request.fs_type
    made.mount.mount_flags.extend(request.mount_options)
    group = fs_group(request.pod)
    if group is not None and driver.has(_RPC.VOLUME_MOUNT_GROUP):
        made.mount.volume_mount_group = str(group)
    return made


def _mode(request: MountRequest, driver: Driver) -> _Mode.Mode:
    fine = driver.has(_RPC.SINGLE_NODE_MULTI_WRITER)  # it knows one writing pod from several on a node
    match request.access_modes[0] if request.access_modes else "ReadWriteOnce":
        case "ReadOnlyMany":
            return _Mode.MULTI_NODE_READER_ONLY
        case "ReadWriteMany":
            return _Mode.MULTI_NODE_MULTI_WRITER
        case "ReadWriteOncePod":
            return _Mode.SINGLE_NODE_SINGLE_WRITER if fine else _Mode.SINGLE_NODE_WRITER
    return _Mode.SINGLE_NODE_MULTI_WRITER if fine and request.access_modes else _Mode.SINGLE_NODE_WRITER


def fs_group(pod: Pod) -> int | None:
    return pod.spec.security_context.fs_group if pod.spec.security_context is not None else None


def owns_files(request: MountRequest, driver: Driver, spec: CSIDriverSpec | None) -> bool:
    """Whether the kubelet gives the volume's files to the pod's fsGroup.

    https://kubernetes-csi.github.io/docs/support-fsgroup.html
    """
    if fs_group(request.pod) is None or request.block or request.read_only or driver.has(_RPC.VOLUME_MOUNT_GROUP):
        return False
    match spec.fs_group_policy if spec is not None else None:
        case "File":
            return True
        case "None":
            return False
    once = {"ReadWriteOnce", "ReadWriteOncePod"} & set(request.access_modes)
    return bool(request.fs_type) and bool(once)


def pod_info(request: MountRequest) -> dict[str, str]:
    """What a driver with podInfoOnMount is told of the pod. https://kubernetes-csi.github.io/docs/pod-info.html"""
    pod = request.pod
    return {
        "csi.storage.k8s.io/pod.name": pod.metadata.name,
        "csi.storage.k8s.io/pod.namespace": pod.metadata.namespace,
        "csi.storage.k8s.io/pod.uid": pod.metadata.uid,
        "csi.storage.k8s.io/serviceAccount.name": pod.spec.service_account_name,
        "csi.storage.k8s.io/ephemeral": "true" if request.lifecycle == EPHEMERAL else "false",
    }


def usage_of(answer: csi.NodeGetVolumeStatsResponse) -> Usage:
    """What a driver measured."""
    size = {one.unit: one for one in answer.usage}
    held, inodes = size.get(csi.VolumeUsage.BYTES), size.get(csi.VolumeUsage.INODES)
    return Usage(
        available=held.available if held else None,
        capacity=held.total if held else None,
        used=held.used if held else None,
        inodes_free=inodes.available if inodes else None,
        inodes=inodes.total if inodes else None,
        inodes_used=inodes.used if inodes else None,
    )
