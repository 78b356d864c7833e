"""ConfigMaps, Secrets and other objects that pods refer to, each followed while a pod uses it.

A kubelet may read only objects that pods on its node refer to (the Node authorizer), so there is
one watch an object, shared by its users, instead of one a kind. The first user waits for the first
read; later ones find it in memory; a change wakes the pods that use it.

```
 pod A ─┐            ┌─ informer of ConfigMap ns/x (fieldSelector metadata.name=x)
 pod B ─┴─ users ────┘      change ──► on_change(uid A), on_change(uid B)
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tiphys.api.core.v1 import ConfigMap, Pod, Secret
from tiphys.base.clock import Clock
from tiphys.client import Client, Informers, SharedInformer
from tiphys.kubelet.pod import PodUID, all_containers, uid_of
from tiphys.machinery.errors import NotFoundError, not_found
from tiphys.machinery.meta import GroupResource, ObjectName

T = TypeVar("T", ConfigMap, Secret)

Kind = type[ConfigMap] | type[Secret]
Reference = tuple[Kind, ObjectName]


@dataclass(slots=True)
class _Followed:
    informer: SharedInformer[Any]
    users: set[PodUID] = field(default_factory=set)


class ObjectCache:
    """The objects that the node's pods use."""

    def __init__(self, client: Client, informers: Informers, clock: Clock, on_change: Callable[[PodUID], None]) -> None:
        self._client = client
        self._informers = informers
        self._clock = clock
        self._on_change = on_change
        self._followed: dict[Reference, _Followed] = {}
        self._of_pod: dict[PodUID, set[Reference]] = {}
        self._dropped: asyncio.Queue[SharedInformer[Any]] = asyncio.Queue()

    def register(self, pod: Pod) -> None:
        """Follow everything `pod` refers to; what it referred to before and no more is let go."""
        uid = uid_of(pod)
        wanted = set(references(pod))
        before = self._of_pod.get(uid, set())
        self._of_pod[uid] = wanted
        for reference in wanted - before:
            self._follow(reference).users.add(uid)
        for reference in before - wanted:
            self._release(reference, uid)

    def unregister(self, uid: PodUID) -> None:
        for reference in self._of_pod.pop(uid, set()):
            self._release(reference, uid)

    async def get(self, kind: type[T], key: ObjectName) -> T:
        """The object as last seen. Raises NotFoundError, and what the client raises when there is no answer."""
        followed = self._followed.get((kind, key))
        if followed is not None and followed.informer.has_synced:
            found: T | None = followed.informer.lister.get(key)
            if found is not None:
                return found
        # Not delivered yet, or not there a moment ago: the server knows best, and words the error.
        try:
            return await self._client.get(kind, key)
        except NotFoundError as error:
            # In the singular, as everybody knows these messages from pods' events.
            raise not_found(GroupResource("", kind.KIND.lower()), key.name) from error

    async def run(self) -> None:
        """Close the watches nobody needs any more, until cancelled."""
        while True:
            await self._informers.forget(await self._dropped.get())

    def _follow(self, reference: Reference) -> _Followed:
        followed = self._followed.get(reference)
        if followed is not None:
            return followed
        kind, key = reference
        informer: SharedInformer[Any] = self._informers.of(
            kind, namespace=key.namespace, field_selector=f"metadata.name={key.name}"
        )
        followed = _Followed(informer)
        self._followed[reference] = followed
        informer.add_handler(
            on_add=lambda obj: self._changed(reference),
            on_update=lambda old, new: self._changed(reference),
            on_delete=lambda obj: self._changed(reference),
        )
        return followed

    def _changed(self, reference: Reference) -> None:
        followed = self._followed.get(reference)
        for uid in list(followed.users) if followed else ():
            self._on_change(uid)

    def _release(self, reference: Reference, uid: PodUID) -> None:
        followed = self._followed.get(reference)
        if followed is None:
            return
        followed.users.discard(uid)
        if not followed.users:
            del self._followed[reference]
            self._dropped.put_nowait(followed.informer)


def references(pod: Pod) -> Iterator[Reference]:
    """Every ConfigMap and Secret the pod's spec names."""
    namespace = pod.metadata.namespace

    def config_map(name: str) -> Reference:
        return ConfigMap, ObjectName(namespace, name)

    def secret(name: str) -> Reference:
        return Secret, ObjectName(namespace, name)

    for pull in pod.spec.image_pull_secrets:
        if pull.name:
            yield secret(pull.name)
    for container in all_containers(pod):
        for source in container.env_from:
            if source.config_map_ref:
                yield config_map(source.config_map_ref.name)
            if source.secret_ref:
                yield secret(source.secret_ref.name)
        for variable in container.env:
            if variable.value_from and variable.value_from.config_map_key_ref:
                yield config_map(variable.value_from.config_map_key_ref.name)
            if variable.value_from and variable.value_from.secret_key_ref:
                yield secret(variable.value_from.secret_key_ref.name)
    for volume in pod.spec.volumes:
        if volume.config_map:
            yield config_map(volume.config_map.name)
        if volume.secret:
            yield secret(volume.secret.secret_name)
        for projection in volume.projected.sources if volume.projected else ():
            if projection.config_map:
                yield config_map(projection.config_map.name)
            if projection.secret:
                yield secret(projection.secret.name)
