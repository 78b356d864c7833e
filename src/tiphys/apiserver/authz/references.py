"""What a pod refers to: the objects its kubelet has to read to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]


def references(pod: Object) -> Iterator[tuple[str, str, str]]:
    """(resource, namespace, name) of the pod itself and of everything it refers to in its namespace."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    namespace = metadata.get("namespace", "")
    yield "pods", namespace, metadata.get("name", "")
    yield "serviceaccounts", namespace, spec.get("serviceAccountName") or "default"
    for resource, name in (*_of_containers(spec), *_of_volumes(spec), *_of_claims(pod)):
        if name:
            yield resource, namespace, name
    for reference in spec.get("imagePullSecrets") or ():
        if reference.get("name"):
            yield "secrets", namespace, reference["name"]


def _of_containers(spec: Object) -> Iterator[tuple[str, str]]:
    for key in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(key) or ():
            for variable in container.get("env") or ():
                source = variable.get("valueFrom") or {}
                yield "secrets", (source.get("secretKeyRef") or {}).get("name", "")
                yield "configmaps", (source.get("configMapKeyRef") or {}).get("name", "")
            for source in container.get("envFrom") or ():
                yield "secrets", (source.get("secretRef") or {}).get("name", "")
                yield "configmaps", (source.get("configMapRef") or {}).get("name", "")


def _of_volumes(spec: Object) -> Iterator[tuple[str, str]]:
    for volume in spec.get("volumes") or ():
        yield "secrets", (volume.get("secret") or {}).get("secretName", "")
        yield "configmaps", (volume.get("configMap") or {}).get("name", "")
        yield "secrets", (volume.get("azureFile") or {}).get("secretName", "")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield "secrets", (source.get("secret") or {}).get("name", "")
            yield "configmaps", (source.get("configMap") or {}).get("name", "")
        for value in volume.values():
            if isinstance(value, dict):
                for _, name in secret_references(value):
                    yield "secrets", name


def _of_claims(pod: Object) -> Iterator[tuple[str, str]]:
    spec = pod.get("spec") or {}
    for volume in spec.get("volumes") or ():
        if volume.get("persistentVolumeClaim") is not None:
            yield "persistentvolumeclaims", volume["persistentVolumeClaim"].get("claimName", "")
        elif volume.get("ephemeral") is not None:
            yield "persistentvolumeclaims", f"{pod['metadata'].get('name', '')}-{volume['name']}"
    status = pod.get("status") or {}
    extended = [status["extendedResourceClaimStatus"]] if status.get("extendedResourceClaimStatus") else ()
    for claim in (*(spec.get("resourceClaims") or ()), *(status.get("resourceClaimStatuses") or ()), *extended):
        yield "resourceclaims", claim.get("resourceClaimName") or ""


def secret_references(source: Object) -> set[tuple[str, str]]:
    """(namespace, name) of the secrets a volume source refers to, as CSI, iSCSI, RBD and others do."""
    found = set()
    for key, value in source.items():
        if key.endswith("Ref") and "ecret" in key and isinstance(value, dict):
            found.add((value.get("namespace", ""), value.get("name", "")))
    return found
