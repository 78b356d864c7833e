"""Revisions of a template, kept as ControllerRevisions: for DaemonSets and StatefulSets.

https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#revision-history
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from msgspec.structs import replace

from tiphys.api.apps.v1 import ControllerRevision
from tiphys.api.codec import to_dict
from tiphys.api.core.v1 import PodTemplateSpec
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import Client, Object, key_of
from tiphys.controllers.common.owners import controller_reference
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError


def data_of(template: PodTemplateSpec) -> dict[str, Any]:
    """What a revision stores: a patch that puts the template back.

    Its keys are in the order of their names, as other programs write them: they find the revision of a
    template by comparing bytes.
    """
    patch = {"spec": {"template": {"$patch": "replace", **to_dict(template)}}}
    ordered: dict[str, Any] = orjson.loads(orjson.dumps(patch, option=orjson.OPT_SORT_KEYS))
    return ordered


def template_of(revision: ControllerRevision) -> dict[str, Any]:
    """The template in a revision, as plain data."""
    template: dict[str, Any] = ((revision.data or {}).get("spec") or {}).get("template") or {}
    return {key: value for key, value in template.items() if key != "$patch"}


def sort(revisions: Sequence[ControllerRevision]) -> list[ControllerRevision]:
    """Oldest first."""
    return sorted(revisions, key=lambda one: (one.revision, one.metadata.name))


def equal_to(revisions: Sequence[ControllerRevision], template: PodTemplateSpec) -> ControllerRevision | None:
    """The newest revision of exactly this template."""
    wanted = to_dict(template)
    return next((one for one in reversed(sort(revisions)) if template_of(one) == wanted), None)


def next_number(revisions: Sequence[ControllerRevision]) -> int:
    """The number of a new revision."""
    return max((one.revision for one in revisions), default=0) + 1


async def create(
    client: Client,
    owner: Object,
    template: PodTemplateSpec,
    *,
    number: int,
    hash_label: str,
    hasher: Callable[[int], str],
    collision_count: int,
    annotations: Mapping[str, str] | None = None,
) -> tuple[ControllerRevision, int]:
    """A new revision, and the collision count after finding it a free name.

    `hasher` makes the suffix of the name from the collision count.
    """
    while True:
        hashed = hasher(collision_count)
        revision = ControllerRevision(
            metadata=ObjectMeta(
                name=f"{owner.metadata.name}-{hashed}",
                namespace=owner.metadata.namespace,
                labels={**template.metadata.labels, hash_label: hashed},
                annotations=dict(annotations or {}),
                owner_references=(controller_reference(owner),),
            ),
            data=data_of(template),
            revision=number,
        )
        try:
            return await client.create(revision), collision_count
        except AlreadyExistsError:
            found = await client.get(ControllerRevision, key_of(revision))
            if found.data == revision.data:
                return found, collision_count
            collision_count += 1


async def renumber(client: Client, revision: ControllerRevision, number: int) -> ControllerRevision:
    """Move a revision that is current again to the end of the history."""
    if revision.revision == number:
        return revision
    return await client.update(replace(revision, revision=number))


async def truncate(client: Client, revisions: Sequence[ControllerRevision], live: set[str], limit: int | None) -> None:
    """Delete the oldest revisions beyond `limit` that nothing uses; `live` are names."""
    unused = [one for one in sort(revisions) if one.metadata.name not in live]
    surplus = len(unused) - (10 if limit is None else limit)
    for one in unused[: max(0, surplus)]:
        with suppress(NotFoundError):
            await client.delete(ControllerRevision, key_of(one))
