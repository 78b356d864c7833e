"""The node's part of a volume's growth: the file system follows the volume, and the claim says so.

```
 claim asks for more ─► driver grows the volume, PersistentVolume's capacity rises
                        ─► here: the source grows what is mounted ─► claim.status.capacity
```
https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus
from tiphys.client import Client, PatchType
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import parse_cached

STORAGE: Final = "storage"
INFEASIBLE: Final = "NodeResizeInfeasible"
# How long a mounted volume that may grow goes unlooked at: claims cannot be watched from a node.
LOOK_EVERY: Final = 30.0
# Conditions that speak of a growth under way.
_UNDER_WAY: Final = ("Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError")


def is_due(claim: PersistentVolumeClaim, volume: PersistentVolume) -> bool:
    """Whether the volume is larger than what its claim knows of, and the node has not given up on that."""
    if claim.status.allocated_resource_statuses.get(STORAGE) == INFEASIBLE:
        return False  # until the claim is changed
    has, knows = volume.spec.capacity.get(STORAGE), claim.status.capacity.get(STORAGE)
    if has is None or knows is None:
        return False
    return parse_cached(has).value() > parse_cached(knows).value()


def grown(claim: PersistentVolumeClaim, size: str) -> PersistentVolumeClaimStatus:
    """The claim's status once the node is done."""
    status = claim.status
    return replace(
        status,
        capacity={**status.capacity, STORAGE: size},
        conditions=tuple(one for one in status.conditions if one.type not in _UNDER_WAY),
        allocated_resource_statuses=_without(status),
    )


def marked(claim: PersistentVolumeClaim, state: str) -> PersistentVolumeClaimStatus:
    """The claim's status with the node's word on its growth."""
    status = claim.status
    return replace(status, allocated_resource_statuses={**status.allocated_resource_statuses, STORAGE: state})


async def write_status(
    client: Client, claim: PersistentVolumeClaim, status: PersistentVolumeClaimStatus
) -> PersistentVolumeClaim:
    """Patch what changed of the claim's status; nothing is sent when nothing did. Raises StatusError."""
    before, after = msgspec.to_builtins(claim.status), msgspec.to_builtins(status)
    changes = {name: after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
    if not changes:
        return claim
    for name in ("capacity", "allocatedResourceStatuses"):
        if name in changes:  # merging leaves keys that are gone: name them
            gone = dict.fromkeys(before.get(name) or {})
            changes[name] = {**gone, **(changes[name] or {})}
    patch = {"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": changes}
    key = ObjectName(claim.metadata.namespace, claim.metadata.name)
    return await client.patch(PersistentVolumeClaim, key, patch, patch_type=PatchType.MERGE, subresource="status")


def _without(status: PersistentVolumeClaimStatus) -> dict[str, str]:
    return {name: state for name, state in status.allocated_resource_statuses.items() if name != STORAGE}
