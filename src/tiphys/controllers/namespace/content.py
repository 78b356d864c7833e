"""Deletes everything in a namespace and says what is left.

Pods go first, and alone: what they still need while they end (service accounts, policies, secrets)
must be there until they have. https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from tiphys.client import ApiConnectionError, ApiResource, Client, PartialObject
from tiphys.machinery.errors import MethodNotAllowedError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

PAGE: Final = 500
AT_ONCE: Final = 8


@dataclass(slots=True)
class Left:
    """What is still in the namespace, and what failed."""

    counts: dict[str, int] = field(default_factory=dict)  # "pods." -> 3
    finalizers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    longest: timedelta = timedelta(0)  # until the last pod's grace period ends

    @property
    def anything(self) -> bool:
        return bool(self.counts or self.errors)


async def delete_content(client: Client, namespace: str, resources: Sequence[ApiResource], now: datetime) -> Left:
    """Ask for the deletion of everything; call again until nothing is left."""
    left = Left()
    pods = [resource for resource in resources if (resource.group, resource.plural) == ("", "pods")]
    others = [resource for resource in resources if resource not in pods]
    for resource in pods:
        await _delete_kind(client, namespace, resource, left, now)
    if left.anything:
        return left
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(resource: ApiResource) -> None:
        async with gate:
            await _delete_kind(client, namespace, resource, left, now)

    await asyncio.gather(*(one(resource) for resource in others))
    return left


async def _delete_kind(client: Client, namespace: str, resource: ApiResource, left: Left, now: datetime) -> None:
    try:
        objects = await _list(client, namespace, resource)
        if objects:
            await _delete_all(client, namespace, resource, objects)
            objects = await _list(client, namespace, resource)
    except (NotFoundError, MethodNotAllowedError):
        return  # the kind itself went away
    except (StatusError, ApiConnectionError) as error:
        left.errors.append(str(error))
        return
    if not objects:
        return
    left.counts[f"{resource.plural}.{resource.group}"] = len(objects)
    for obj in objects:
        left.finalizers.update(obj.metadata.finalizers)
        if resource.plural == "pods" and obj.metadata.deletion_timestamp is not None:
            # deletionTimestamp is when the grace period ends.
            left.longest = max(left.longest, obj.metadata.deletion_timestamp - now)


async def _list(client: Client, namespace: str, resource: ApiResource) -> list[PartialObject]:
    found: list[PartialObject] = []
    token = ""
    while True:
        page = await client.list(resource.endpoint, namespace=namespace, limit=PAGE, continue_=token)
        found += page.items
        token = page.continue_
        if not token:
            return found


async def _delete_all(client: Client, namespace: str, resource: ApiResource, objects: Sequence[PartialObject]) -> None:
    if "deletecollection" in resource.verbs:
        await client.delete_collection(resource.endpoint, namespace=namespace, propagation="Background")
        return
    for obj in objects:
        if obj.metadata.deletion_timestamp is None:
            try:
                await client.delete(
                    resource.endpoint, ObjectName(namespace, obj.metadata.name), propagation="Background"
                )
            except NotFoundError:
                continue
