"""Small plug-ins about storage and ingress: defaults by class, protection while in use, resizing.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import CREATE, UPDATE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import Quantity

STORAGE: Final = "storage.k8s.io"
DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
DEFAULT_CLASS_BETA: Final = "storageclass.beta.kubernetes.io/is-default-class"
CLASS_BETA: Final = "volume.beta.kubernetes.io/storage-class"
DEFAULT_INGRESS: Final = "ingressclass.kubernetes.io/is-default-class"
PROTECTION: Final = {
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
    "persistentvolumes": "kubernetes.io/pv-protection",
    "volumeattributesclasses": "kubernetes.io/vac-protection",
}


def newest(candidates: list[Object]) -> Object | None:
    """The one created last; of those created together, the first by name."""
    if not candidates:
        return None
    by_name = sorted(candidates, key=lambda item: item["metadata"]["name"])
    return max(by_name, key=lambda item: item["metadata"].get("creationTimestamp", ""))


def _annotated(item: Object, *names: str) -> bool:
    annotations = item["metadata"].get("annotations") or {}
    return any(annotations.get(name) == "true" for name in names)


class DefaultStorageClass(AdmissionPlugin):
    """A claim that names no class gets the default one."""

    name = "DefaultStorageClass"
    operations = CREATE
    resources = frozenset({("", "persistentvolumeclaims")})

    async def admit(self, attributes: AdmissionAttributes) -> None:
        claim = attributes.object
        if claim is None:
            return
        spec = claim.setdefault("spec", {})
        if spec.get("storageClassName") is not None or CLASS_BETA in (claim["metadata"].get("annotations") or {}):
            return
        classes = self.reader.list(STORAGE, "storageclasses")
        default = newest([item for item in classes if _annotated(item, DEFAULT_CLASS, DEFAULT_CLASS_BETA)])
        if default is not None:
            spec["storageClassName"] = default["metadata"]["name"]


class StorageObjectInUseProtection(AdmissionPlugin):
    """Claims and volumes are not removed while they are used: a finalizer, taken away by a controller."""

    name = "StorageObjectInUseProtection"
    operations = CREATE
    resources = frozenset(
        {("", "persistentvolumeclaims"), ("", "persistentvolumes"), (STORAGE, "volumeattributesclasses")}
    )

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None:
            return
        metadata = attributes.object.setdefault("metadata", {})
        finalizer = PROTECTION[attributes.resource.resource]
        finalizers = metadata.get("finalizers") or []
        if finalizer not in finalizers:
            metadata["finalizers"] = [*finalizers, finalizer]


class PersistentVolumeClaimResize(AdmissionPlugin):
    """Only claims of a class that allows it may grow."""

    name = "PersistentVolumeClaimResize"
    operations = UPDATE
    resources = frozenset({("", "persistentvolumeclaims")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        new, old = _requested(attributes.object), _requested(attributes.old_object)
        if new <= old:
            return
        claim = attributes.old_object or {}
        if claim.get("status", {}).get("phase") != "Bound":
            raise refuse(attributes, "Only bound persistent volume claims can be expanded")
        name = claim.get("spec", {}).get("storageClassName") or ""
        found = self.reader.get(STORAGE, "storageclasses", ObjectName("", name)) if name else None
        if found is None or not found.get("allowVolumeExpansion"):
            raise refuse(
                attributes,
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
                "support resize",
            )


def _requested(claim: Object | None) -> Quantity:
    text = ((((claim or {}).get("spec") or {}).get("resources") or {}).get("requests") or {}).get("storage", "0")
    return Quantity.parse(text)


class DefaultIngressClass(AdmissionPlugin):
    """An ingress that names no class gets the default one."""

    name = "DefaultIngressClass"
    operations = CREATE
    resources = frozenset({("networking.k8s.io", "ingresses")})

    async def admit(self, attributes: AdmissionAttributes) -> None:
        ingress = attributes.object
        if ingress is None:
            return
        spec = ingress.setdefault("spec", {})
        if spec.get("ingressClassName") is not None:
            return
        if "kubernetes.io/ingress.class" in (ingress["metadata"].get("annotations") or {}):
            return
        classes = self.reader.list("networking.k8s.io", "ingressclasses")
        default = newest([item for item in classes if _annotated(item, DEFAULT_INGRESS)])
        if default is not None:
            spec["ingressClassName"] = default["metadata"]["name"]
