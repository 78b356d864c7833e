"""Keeps a VolumeAttributesClass from vanishing while a claim or a volume is of that class.

https://kubernetes.io/docs/concepts/storage/volume-attributes-classes/
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.api.storage.v1 import VolumeAttributesClass
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

FINALIZER: Final = "kubernetes.io/vac-protection"
BY_CLASS: Final = "attributes class"


def classes_of_claim(claim: PersistentVolumeClaim) -> Iterable[str]:
    """The classes a claim asks for, has, or is being changed to."""
    status = claim.status
    target = status.modify_volume_status.target_volume_attributes_class_name if status.modify_volume_status else ""
    found = (claim.spec.volume_attributes_class_name, status.current_volume_attributes_class_name, target)
    return {name for name in found if name}


def classes_of_volume(volume: PersistentVolume) -> Iterable[str]:
    """The class a volume has."""
    name = volume.spec.volume_attributes_class_name
    return (name,) if name else ()


class VACProtectionController(Controller[ObjectName]):
    """The controller `volumeattributesclass-protection-controller`."""

    name = "volumeattributesclass-protection"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._classes = context.informers.of(VolumeAttributesClass)
        self._claims = context.informers.of(PersistentVolumeClaim)
        self._volumes = context.informers.of(PersistentVolume)
        super().__init__(context.clock, (self._classes, self._claims, self._volumes))
        self._claims.add_index(BY_CLASS, classes_of_claim)
        self._volumes.add_index(BY_CLASS, classes_of_volume)
        enqueue(self.queue, self._classes)

        def freed(names: Iterable[str]) -> None:
            for name in names:
                self.queue.add(ObjectName("", name))

        self._claims.add_handler(
            None, lambda old, _: freed(classes_of_claim(old)), lambda gone: freed(classes_of_claim(gone))
        )
        self._volumes.add_handler(
            None, lambda old, _: freed(classes_of_volume(old)), lambda gone: freed(classes_of_volume(gone))
        )

    async def sync(self, key: ObjectName) -> Result:
        """Put the finalizer on a class that lacks it, or take it off one that is free to go."""
        found = self._classes.lister.get(key)
        if found is None:
            return DONE
        finalizers = found.metadata.finalizers
        if found.metadata.deletion_timestamp is None:
            if FINALIZER not in finalizers:
                finalizers = (*finalizers, FINALIZER)
        elif not await self._in_use(key.name):
            finalizers = tuple(name for name in finalizers if name != FINALIZER)
        if finalizers != found.metadata.finalizers:
            with suppress(NotFoundError):
                await self._client.update(replace(found, metadata=replace(found.metadata, finalizers=finalizers)))
        return DONE

    async def _in_use(self, name: str) -> bool:
        """Whether anything is of the class; a cache that says no is checked with the server."""
        if self._claims.lister.by_index(BY_CLASS, name) or self._volumes.lister.by_index(BY_CLASS, name):
            return True
        claims = (await self._client.list(PersistentVolumeClaim)).items
        volumes = (await self._client.list(PersistentVolume)).items
        return any(name in classes_of_claim(one) for one in claims) or any(
            name in classes_of_volume(one) for one in volumes
        )
