"""The PersistentVolume of a claim, and the directory behind it. Pure.

    <directory of the node>/pvc-<uid of the claim>_<namespace>_<claim>

It is a `local` volume, or with `volumeType: hostPath` among the class's parameters one of that kind.
The size is what was asked for; a directory keeps nobody to it.
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import (
    HostPathVolumeSource,
    LocalVolumeSource,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeSpec,
    VolumeNodeAffinity,
)
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.storage.v1 import StorageClass
from tiphys.controllers.persistentvolume.claims import (
    PROVISIONED_BY,
    SELECTED_NODE,
    STORAGE_PROVISIONER,
    class_of,
    reference_of,
)

PROVISIONER: Final = "tiphys.dev/local-path"
# On volumes whose directory is removed with them, however they are deleted.
FINALIZER: Final = "tiphys.dev/local-path"
HOSTNAME: Final = "kubernetes.io/hostname"
NODE: Final = "tiphys.dev/node"
VOLUME_TYPE: Final = "volumeType"


def volume_name(claim: PersistentVolumeClaim) -> str:
    """The name of a claim's volume."""
    return f"pvc-{claim.metadata.uid}"


def directory_name(claim: PersistentVolumeClaim) -> str:
    """The last part of the volume's path."""
    return f"{volume_name(claim)}_{claim.metadata.namespace}_{claim.metadata.name}"


def wants_volume(claim: PersistentVolumeClaim) -> bool:
    """Whether the claim waits for this provisioner, and the scheduler has said where."""
    annotations = claim.metadata.annotations
    return (
        not claim.spec.volume_name
        and claim.metadata.deletion_timestamp is None
        and annotations.get(STORAGE_PROVISIONER) == PROVISIONER
        and bool(annotations.get(SELECTED_NODE))
    )


def refusal(claim: PersistentVolumeClaim) -> str:
    """What of the claim a directory cannot be; empty when it can."""
    if claim.spec.volume_mode == "Block":
        return "block volumes are not supported"
    if claim.spec.selector is not None:
        return "claim.Spec.Selector is not supported"
    shared = sorted(set(claim.spec.access_modes) - {"ReadWriteOnce", "ReadWriteOncePod"})
    if shared:
        return f"only ReadWriteOnce and ReadWriteOncePod are supported, not {', '.join(shared)}"
    return ""


def volume_of(
    claim: PersistentVolumeClaim, storage_class: StorageClass, *, node: str, hostname: str, path: str
) -> PersistentVolume:
    """The volume for a claim, bound to it from the start. `hostname`: the node's label."""
    policy = storage_class.reclaim_policy or "Delete"
    requested = claim.spec.resources.requests.get("storage", "") if claim.spec.resources else ""
    term = NodeSelectorTerm(
        match_expressions=(NodeSelectorRequirement(key=HOSTNAME, operator="In", values=(hostname,)),)
    )
    as_host_path = storage_class.parameters.get(VOLUME_TYPE) == "hostPath"
    return PersistentVolume(
        metadata=ObjectMeta(
            name=volume_name(claim),
            annotations={PROVISIONED_BY: PROVISIONER, NODE: node},
            finalizers=(FINALIZER,) if policy == "Delete" else (),
        ),
        spec=PersistentVolumeSpec(
            capacity={"storage": requested},
            access_modes=claim.spec.access_modes,
            claim_ref=reference_of(claim),
            persistent_volume_reclaim_policy=policy,
            storage_class_name=class_of(claim),
            mount_options=storage_class.mount_options,
            volume_mode="Filesystem",
            local=None if as_host_path else LocalVolumeSource(path=path),
            host_path=HostPathVolumeSource(path=path, type="Directory") if as_host_path else None,
            node_affinity=VolumeNodeAffinity(required=NodeSelector(node_selector_terms=(term,))),
        ),
    )


def path_of(volume: PersistentVolume) -> str:
    """The volume's directory on its node; empty when it is of another kind."""
    if volume.spec.local is not None:
        return volume.spec.local.path
    return volume.spec.host_path.path if volume.spec.host_path is not None else ""
