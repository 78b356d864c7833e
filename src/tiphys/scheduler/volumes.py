"""What the volume plugins share: a pod's claims, and which PersistentVolume could serve a claim.

Source: Kubernetes documentation, "Persistent Volumes" (Binding) and "Storage Classes" (Volume Binding Mode).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.machinery.quantity import parse_cached
from tiphys.machinery.selectors import LabelSelector

BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER: Final = "pv.kubernetes.io/bound-by-controller"
SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
NO_PROVISIONER: Final = "kubernetes.io/no-provisioner"
BETA_CLASS: Final = "volume.beta.kubernetes.io/storage-class"


class ClaimName(NamedTuple):
    """A claim a pod uses; an `ephemeral` one is made for the pod by a controller."""

    name: str
    ephemeral: bool


def claim_names(pod: Pod) -> tuple[ClaimName, ...]:
    """The claims behind a pod's volumes."""
    names = []
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            names.append(ClaimName(volume.persistent_volume_claim.claim_name, False))
        elif volume.ephemeral is not None:
            names.append(ClaimName(f"{pod.metadata.name}-{volume.name}", True))
    return tuple(names)


def is_bound(claim: PersistentVolumeClaim) -> bool:
    """Whether the PV controller has finished binding it."""
    return bool(claim.spec.volume_name) and BIND_COMPLETED in claim.metadata.annotations


def class_of(claim: PersistentVolumeClaim) -> str:
    """The claim's storage class; the annotation is older than the field."""
    return claim.metadata.annotations.get(BETA_CLASS) or claim.spec.storage_class_name or ""


def requested_bytes(claim: PersistentVolumeClaim) -> int:
    resources = claim.spec.resources
    text = resources.requests.get("storage") if resources else None
    return parse_cached(text).value() if text else 0


def capacity_bytes(volume: PersistentVolume) -> int:
    text = volume.spec.capacity.get("storage")
    return parse_cached(text).value() if text else 0


def can_serve(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether a volume may be bound to a claim, wherever: class, size, modes, labels, and not someone else's."""
    reference = volume.spec.claim_ref
    mine = reference is not None and (reference.namespace, reference.name) == (
        claim.metadata.namespace,
        claim.metadata.name,
    )
    if reference is not None and not (mine and reference.uid in ("", claim.metadata.uid)):
        return False
    if not mine and volume.status.phase != "Available":
        return False
    return (
        volume.metadata.deletion_timestamp is None
        and volume.spec.storage_class_name == class_of(claim)
        and (volume.spec.volume_mode or "Filesystem") == (claim.spec.volume_mode or "Filesystem")
        and set(claim.spec.access_modes) <= set(volume.spec.access_modes)
        and capacity_bytes(volume) >= requested_bytes(claim)
        and (claim.spec.selector is None or LabelSelector.of_dict(claim.spec.selector).matches(volume.metadata.labels))
    )
