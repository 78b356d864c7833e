"""Claims and volumes that are bound to each other, as the binder leaves them."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.e2e.kubelet.node import TestNode
from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.machinery.meta import ObjectName


async def bound(node: TestNode, name: str, **spec: Any) -> None:
    """A claim in `default` and a volume of 16Mi by this name; `spec` says what the volume is."""
    size = {"storage": "16Mi"}
    modes = spec.pop("accessModes", ["ReadWriteOnce"])
    mode = spec.get("volumeMode", "Filesystem")
    claimed = {"volumeName": name, "accessModes": modes, "resources": {"requests": size}, "storageClassName": ""}
    document = {"metadata": {"name": name, "namespace": "default"}, "spec": {**claimed, "volumeMode": mode}}
    claim = await node.client.create(msgspec.convert(document, PersistentVolumeClaim))
    reference = {"kind": "PersistentVolumeClaim", "namespace": "default", "name": name, "uid": claim.metadata.uid}
    given = {"capacity": size, "accessModes": modes, "claimRef": reference, "persistentVolumeReclaimPolicy": "Retain"}
    volume = {"metadata": {"name": name}, "spec": {**given, **spec}}
    await node.client.create(msgspec.convert(volume, PersistentVolume))
    status = {"status": {"phase": "Bound", "capacity": size, "accessModes": modes}}
    await node.client.patch(PersistentVolumeClaim, ObjectName("default", name), status, subresource="status")


def using(claim: str) -> list[dict[str, Any]]:
    """A pod's volumes: the claim as `data`."""
    return [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
