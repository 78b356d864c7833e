"""What a claim and a volume say of each other. Pure."""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import ObjectReference, PersistentVolume, PersistentVolumeClaim
from tiphys.api.storage.v1 import StorageClass
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import parse_cached

BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER: Final = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
STORAGE_PROVISIONER: Final = "volume.kubernetes.io/storage-provisioner"
BETA_STORAGE_PROVISIONER: Final = "volume.beta.kubernetes.io/storage-provisioner"
BETA_CLASS: Final = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
NO_PROVISIONER: Final = "kubernetes.io/no-provisioner"


def class_of(claim: PersistentVolumeClaim) -> str:
    """The claim's storage class; the annotation is older than the field."""
    return claim.metadata.annotations.get(BETA_CLASS) or claim.spec.storage_class_name or ""


def class_of_volume(volume: PersistentVolume) -> str:
    """The volume's storage class."""
    return volume.metadata.annotations.get(BETA_CLASS) or volume.spec.storage_class_name


def requested(claim: PersistentVolumeClaim) -> int:
    """Bytes the claim asks for."""
    text = claim.spec.resources.requests.get("storage") if claim.spec.resources else None
    return parse_cached(text).value() if text else 0


def capacity(volume: PersistentVolume) -> int:
    """Bytes the volume has."""
    text = volume.spec.capacity.get("storage")
    return parse_cached(text).value() if text else 0


def is_prebound(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether the volume's claimRef means this claim; one without a uid means whoever has the name."""
    reference = volume.spec.claim_ref
    return (
        reference is not None
        and (reference.namespace, reference.name) == (claim.metadata.namespace, claim.metadata.name)
        and reference.uid in ("", claim.metadata.uid)
    )


def claim_key(reference: ObjectReference) -> ObjectName:
    """The claim a claimRef names."""
    return ObjectName(reference.namespace, reference.name)


def reference_of(claim: PersistentVolumeClaim) -> ObjectReference:
    """The claimRef of a volume bound to the claim."""
    return ObjectReference(
        kind="PersistentVolumeClaim",
        api_version="v1",
        namespace=claim.metadata.namespace,
        name=claim.metadata.name,
        uid=claim.metadata.uid,
        resource_version=claim.metadata.resource_version,
    )


def waits_for_pod(claim: PersistentVolumeClaim, storage_class: StorageClass | None) -> bool:
    """Whether binding is left to the scheduler, which has not chosen a node yet."""
    delayed = storage_class is not None and storage_class.volume_binding_mode == "WaitForFirstConsumer"
    return delayed and SELECTED_NODE not in claim.metadata.annotations


def default_class(classes: list[StorageClass]) -> StorageClass | None:
    """The class of claims that name none: the youngest of those marked as default."""
    marked = [one for one in classes if one.metadata.annotations.get(DEFAULT_CLASS) == "true"]

    def youth(one: StorageClass) -> tuple[float, str]:
        created = one.metadata.creation_timestamp
        return (-created.timestamp() if created is not None else 0.0, one.metadata.name)

    return min(marked, key=youth, default=None)
