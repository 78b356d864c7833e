"""Keeps claims that pods use, and volumes that claims are bound to, from vanishing under them.

Both carry a finalizer from the start; it comes off when the object is being deleted and nothing uses
it. https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

CLAIM_FINALIZER: Final = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER: Final = "kubernetes.io/pv-protection"
BY_CLAIM: Final = "claim"


def claims_of(pod: Pod) -> list[ObjectName]:
    """The claims a pod mounts, those made for it (ephemeral volumes) among them."""
    namespace = pod.metadata.namespace
    found = []
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            found.append(ObjectName(namespace, volume.persistent_volume_claim.claim_name))
        elif volume.ephemeral is not None:
            found.append(ObjectName(namespace, f"{pod.metadata.name}-{volume.name}"))
    return found


class PVCProtectionController(Controller[ObjectName]):
    """The controller `persistentvolumeclaim-protection-controller`."""

    name = "pvcprotection"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._claims = context.informers.of(PersistentVolumeClaim)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._claims, self._pods))

        def by_claim(pod: Pod) -> Iterable[str]:
            return [str(name) for name in claims_of(pod)]

        self._pods.add_index(BY_CLAIM, by_claim)
        enqueue(self.queue, self._claims)
        self._pods.add_handler(None, lambda _, new: self._pod_updated(new), self._pod_gone)

    def _pod_updated(self, pod: Pod) -> None:
        if not _holds(pod):
            self._pod_gone(pod)

    def _pod_gone(self, pod: Pod) -> None:
        for name in claims_of(pod):
            self.queue.add(name)

    async def sync(self, key: ObjectName) -> Result:
        """Put the finalizer on a claim that lacks it, or take it off one that is free to go."""
        claim = self._claims.lister.get(key)
        if claim is None:
            return DONE
        protected = CLAIM_FINALIZER in claim.metadata.finalizers
        if claim.metadata.deletion_timestamp is None:
            if not protected:
                await self._write(claim, (*claim.metadata.finalizers, CLAIM_FINALIZER))
            return DONE
        if protected and not await self._in_use(key):
            kept = tuple(name for name in claim.metadata.finalizers if name != CLAIM_FINALIZER)
            await self._write(claim, kept)
        return DONE

    async def _in_use(self, key: ObjectName) -> bool:
        """Whether a pod that has a node uses the claim; a cache that says no is checked with the server."""
        if any(_holds(pod) for pod in self._pods.lister.by_index(BY_CLAIM, str(key))):
            return True
        live = await self._client.list(Pod, namespace=key.namespace)
        return any(key in claims_of(pod) and _holds(pod) for pod in live.items)

    async def _write(self, claim: PersistentVolumeClaim, finalizers: tuple[str, ...]) -> None:
        with suppress(NotFoundError):
            await self._client.update(replace(claim, metadata=replace(claim.metadata, finalizers=finalizers)))


def _holds(pod: Pod) -> bool:
    return bool(pod.spec.node_name) and pod.status.phase not in ("Succeeded", "Failed")


class PVProtectionController(Controller[ObjectName]):
    """The controller `persistentvolume-protection-controller`."""

    name = "pvprotection"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._volumes = context.informers.of(PersistentVolume)
        super().__init__(context.clock, (self._volumes,))
        enqueue(self.queue, self._volumes)

    async def sync(self, key: ObjectName) -> Result:
        """Put the finalizer on a volume that lacks it, or take it off one that is free to go."""
        volume = self._volumes.lister.get(key)
        if volume is None:
            return DONE
        protected = VOLUME_FINALIZER in volume.metadata.finalizers
        finalizers = volume.metadata.finalizers
        if volume.metadata.deletion_timestamp is None and not protected:
            finalizers = (*finalizers, VOLUME_FINALIZER)
        elif volume.metadata.deletion_timestamp is not None and protected and volume.status.phase != "Bound":
            finalizers = tuple(name for name in finalizers if name != VOLUME_FINALIZER)
        if finalizers != volume.metadata.finalizers:
            with suppress(NotFoundError):
                await self._client.update(replace(volume, metadata=replace(volume.metadata, finalizers=finalizers)))
        return DONE
