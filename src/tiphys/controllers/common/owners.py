"""Owning objects: who controls what, adopting orphans that match, releasing what no longer does.

Adoption and release are patches that name the object's uid, so that they never touch a namesake.
https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

from tiphys.api.meta.v1 import OwnerReference
from tiphys.client import Client, Object, PatchType, SharedInformer, key_of
from tiphys.machinery.errors import NotFoundError, StatusError

T = TypeVar("T", bound=Object)

BY_CONTROLLER: Final = "controller"


def controller_of(obj: Object) -> OwnerReference | None:
    """The one owner that manages `obj`."""
    for owner in obj.metadata.owner_references:
        if owner.controller:
            return owner
    return None


def controlled_by(obj: Object, owner: Object) -> bool:
    """Whether `owner` is the controller of `obj`."""
    found = controller_of(obj)
    return found is not None and found.uid == owner.metadata.uid


def controller_reference(owner: Object) -> OwnerReference:
    """The reference that makes `owner` (an instance of a generated kind) the controller of an object."""
    kind: Any = owner
    return OwnerReference(
        api_version=kind.API_VERSION,
        kind=kind.KIND,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )


def may_be_adopted_now(old: Object, new: Object) -> bool:
    """Whether an object without a controller lost one, or was relabelled: one that did not want it may want it now."""
    if controller_of(new) is not None:
        return False
    return controller_of(old) is not None or old.metadata.labels != new.metadata.labels


def orphans_of(namespace: str) -> str:
    """The value of the BY_CONTROLLER index under which a namespace's objects without a controller are filed."""
    return f"orphan/{namespace}"


def index_by_controller(informer: SharedInformer[T]) -> None:
    """File every object under its controller's uid, or among the orphans of its namespace."""

    def owner(obj: T) -> Iterable[str]:
        found = controller_of(obj)
        return (found.uid,) if found is not None else (orphans_of(obj.metadata.namespace),)

    informer.add_index(BY_CONTROLLER, owner)


async def claim(
    client: Client,
    kind: type[T],
    owner: Object,
    candidates: Iterable[T],
    matches: Callable[[T], bool],
    adoptable: Callable[[T], bool] = lambda _: True,
    finalizer: str = "",
) -> list[T]:
    """The objects among `candidates` that are the owner's after adopting and releasing.

    `candidates` are the owner's own objects and orphans. An owner being deleted adopts nothing.
    What is adopted gets `finalizer`, what is released loses it.
    Raises StatusError when the API refuses; the sync is then tried again.
    """
    claimed: list[T] = []
    current: bool | None = None
    for obj in candidates:
        found = controller_of(obj)
        if found is not None:
            if found.uid != owner.metadata.uid:
                continue
            if matches(obj):
                claimed.append(obj)
            elif owner.metadata.deletion_timestamp is None:
                await _release(client, kind, owner, obj, finalizer)
            continue
        if owner.metadata.deletion_timestamp is not None or obj.metadata.deletion_timestamp is not None:
            continue
        if not matches(obj) or not adoptable(obj):
            continue
        if current is None:
            # Ask the server, not the cache: a namesake may have taken the owner's place.
            current = await _still_there(client, owner)
        if current and await _adopt(client, kind, owner, obj, finalizer):
            claimed.append(obj)
    return claimed


async def _still_there(client: Client, owner: Object) -> bool:
    try:
        fresh = await client.get(type(owner), key_of(owner))
    except NotFoundError:
        return False
    return fresh.metadata.uid == owner.metadata.uid and fresh.metadata.deletion_timestamp is None


async def _adopt(client: Client, kind: type[T], owner: Object, obj: T, finalizer: str) -> bool:
    meta: dict[str, Any] = {"uid": obj.metadata.uid, "ownerReferences": [controller_reference(owner)]}
    if finalizer:
        meta["finalizers"] = [finalizer]
    try:
        await client.patch(kind, key_of(obj), {"metadata": meta}, patch_type=PatchType.STRATEGIC)
    except NotFoundError:
        return False
    return True


async def _release(client: Client, kind: type[T], owner: Object, obj: T, finalizer: str) -> None:
    gone = {"$patch": "delete", "uid": owner.metadata.uid}
    meta: dict[str, Any] = {"uid": obj.metadata.uid, "ownerReferences": [gone]}
    if finalizer:
        meta["$deleteFromPrimitiveList/finalizers"] = [finalizer]
    with suppress(NotFoundError):
        try:
            await client.patch(kind, key_of(obj), {"metadata": meta}, patch_type=PatchType.STRATEGIC)
        except StatusError as error:
            # Invalid: the reference is gone already, or the uid is another's.
            if error.code != 422:
                raise
