"""Binds claims to volumes, and moves both through their phases.

                     claim                                     volume
    created          Pending                                   Available
    bound            Bound  spec.volumeName ->  <- claimRef    Bound
    claim deleted                                              Released, then by reclaim policy:
                                                                 Retain   stays Released
                                                                 Delete   its provisioner deletes it
    volume deleted   Lost

Binding is four writes, in this order: claimRef of the volume (which is what takes it: a conflict
there means someone else was faster), its phase, volumeName and `bind-completed` of the claim, its
phase. Each is looked at anew whenever either object changes, so a manager that dies between two of
them is continued by the next. https://kubernetes.io/docs/concepts/storage/persistent-volumes/
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim, Pod
from tiphys.api.storage.v1 import StorageClass
from tiphys.client import DONE, NORMAL, WARNING, Controller, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.latest import Latest
from tiphys.controllers.persistentvolume import claims
from tiphys.controllers.persistentvolume.claims import claim_key, class_of, is_prebound
from tiphys.controllers.persistentvolume.match import best, mismatch
from tiphys.controllers.volumeprotection import claims_of
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

RESYNC: Final = RequeueAfter(timedelta(seconds=15))
# What becomes of volumes nobody made for their claim: there is no plugin here that could empty or delete them.
FAILURES: Final = {
    "Delete": ("VolumeFailedDelete", "no deletable volume plugin matched"),
    "Recycle": ("VolumeFailedRecycle", "no recyclable volume plugin matched"),
}
BY_CLAIM: Final = "claim"
BY_CLASS: Final = "pending claims of a class"


class PersistentVolumeBinder(Controller[ObjectName]):
    """The controller `persistentvolume-binder-controller`; keys with a namespace are claims, others volumes."""

    name = "persistentvolume-controller"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("persistentvolume-controller")
        volumes = context.informers.of(PersistentVolume)
        claims_ = context.informers.of(PersistentVolumeClaim)
        self._classes = context.informers.of(StorageClass)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (volumes, claims_, self._classes, self._pods))
        self._volumes, self._claims = Latest(volumes), Latest(claims_)
        self._claim_cache = claims_
        self._taken: set[str] = set()  # volumes whose claimRef is being written
        self._pods.add_index(BY_CLAIM, lambda pod: [str(name) for name in claims_of(pod)])
        claims_.add_index(BY_CLASS, lambda claim: [class_of(claim)] if not claim.spec.volume_name else [])
        volumes.add_handler(self._volume_changed, lambda _, new: self._volume_changed(new), self._volume_changed)
        claims_.add_handler(self._claim_changed, lambda _, new: self._claim_changed(new), self._claim_changed)
        self._classes.add_handler(self._class_changed, lambda _, new: self._class_changed(new))

    # What wakes whom

    def _volume_changed(self, volume: PersistentVolume) -> None:
        self.queue.add(key_of(volume))
        if volume.spec.claim_ref is not None:
            self.queue.add(claim_key(volume.spec.claim_ref))
        elif volume.status.phase == "Available":
            self._wake_claims(claims.class_of_volume(volume))

    def _claim_changed(self, claim: PersistentVolumeClaim) -> None:
        self.queue.add(key_of(claim))
        if claim.spec.volume_name:
            self.queue.add(ObjectName("", claim.spec.volume_name))

    def _class_changed(self, storage_class: StorageClass) -> None:
        self._wake_claims(storage_class.metadata.name)
        if storage_class.metadata.annotations.get(claims.DEFAULT_CLASS) == "true":
            self._wake_claims("")

    def _wake_claims(self, class_name: str) -> None:
        for claim in self._claim_cache.lister.by_index(BY_CLASS, class_name):
            self.queue.add(key_of(claim))

    async def sync(self, key: ObjectName) -> Result:
        """Take one claim or volume as far as it can go."""
        if not key.namespace:
            volume = self._volumes.get(key)
            return DONE if volume is None else await self._sync_volume(volume)
        claim = self._claims.get(key)
        if claim is None:
            return DONE
        if claims.BIND_COMPLETED in claim.metadata.annotations:
            return await self._sync_bound_claim(claim)
        return await self._sync_unbound_claim(claim)

    # Claims

    async def _sync_unbound_claim(self, claim: PersistentVolumeClaim) -> Result:
        if claim.metadata.deletion_timestamp is not None:
            return DONE
        if claim.spec.volume_name:
            return await self._bind_as_asked(claim)
        storage_class = self._class(claim)
        delay = claims.waits_for_pod(claim, storage_class)
        volume = best(self._volumes.list(), claim, only_prebound=delay, taken=self._taken)
        if volume is not None:
            return await self._bind(volume, claim)
        claim = await self._set_default_class(claim)
        if delay:
            self._say_what_it_waits_for(claim)
        elif class_of(claim):
            claim = await self._ask_provisioner(claim, storage_class or self._class(claim))
        else:
            text = "no persistent volumes available for this claim and no storage class is set"
            self._recorder.event(claim, NORMAL, "FailedBinding", text)
        await self._set_claim_phase(claim, "Pending")
        return RESYNC

    def _class(self, claim: PersistentVolumeClaim) -> StorageClass | None:
        name = class_of(claim)
        return self._classes.lister.get(ObjectName("", name)) if name else None

    async def _set_default_class(self, claim: PersistentVolumeClaim) -> PersistentVolumeClaim:
        """A claim from before there was a default class gets it once there is one; "" means none is wanted."""
        if claim.spec.storage_class_name is not None or claims.BETA_CLASS in claim.metadata.annotations:
            return claim
        chosen = claims.default_class(self._classes.lister.list())
        if chosen is None:
            return claim
        spec = replace(claim.spec, storage_class_name=chosen.metadata.name)
        return self._claims.note(await self._client.update(replace(claim, spec=spec)))

    def _say_what_it_waits_for(self, claim: PersistentVolumeClaim) -> None:
        pods = [pod for pod in self._pods.lister.by_index(BY_CLAIM, str(key_of(claim))) if not pod.spec.node_name]
        if pods:
            names = ",".join(sorted(pod.metadata.name for pod in pods))
            self._recorder.event(claim, NORMAL, "WaitForPodScheduled", f"waiting for pod {names} to be scheduled")
        else:
            text = "waiting for first consumer to be created before binding"
            self._recorder.event(claim, NORMAL, "WaitForFirstConsumer", text)

    async def _ask_provisioner(
        self, claim: PersistentVolumeClaim, storage_class: StorageClass | None
    ) -> PersistentVolumeClaim:
        """Name the provisioner on the claim, which is what an external one watches for."""
        if storage_class is None:
            text = f'storageclass.storage.k8s.io "{class_of(claim)}" not found'
            self._recorder.event(claim, WARNING, "ProvisioningFailed", text)
            return claim
        provisioner = storage_class.provisioner
        if provisioner == claims.NO_PROVISIONER:
            text = "no persistent volumes available for this claim and no storage class is set"
            self._recorder.event(claim, NORMAL, "FailedBinding", text)
            return claim
        annotations = {
            **claim.metadata.annotations,
            claims.BETA_STORAGE_PROVISIONER: provisioner,
            claims.STORAGE_PROVISIONER: provisioner,
        }
        if annotations != dict(claim.metadata.annotations):
            metadata = replace(claim.metadata, annotations=annotations)
            claim = self._claims.note(await self._client.update(replace(claim, metadata=metadata)))
        text = (
            f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by "
            "the system administrator. If volume creation is delayed, please verify that the provisioner is running "
            "and correctly registered."
        )
        self._recorder.event(claim, NORMAL, "ExternalProvisioning", text)
        return claim

    async def _bind_as_asked(self, claim: PersistentVolumeClaim) -> Result:
        """The claim names its volume: bind to that one or to none."""
        volume = self._volumes.get(ObjectName("", claim.spec.volume_name))
        if volume is not None and is_prebound(volume, claim):
            return await self._bind(volume, claim)
        if volume is not None and volume.spec.claim_ref is None:
            problem = mismatch(volume, claim)
            if not problem and volume.metadata.name not in self._taken:
                return await self._bind(volume, claim)
            text = f'Cannot bind to requested volume "{volume.metadata.name}": {problem}'
            self._recorder.event(claim, WARNING, "VolumeMismatch", text)
        elif volume is not None:
            text = f'volume "{volume.metadata.name}" already bound to a different claim.'
            self._recorder.event(claim, WARNING, "FailedBinding", text)
        await self._set_claim_phase(claim, "Pending")
        return RESYNC

    async def _sync_bound_claim(self, claim: PersistentVolumeClaim) -> Result:
        name = claim.spec.volume_name
        volume = self._volumes.get(ObjectName("", name)) if name else None
        if not name:
            text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
            await self._lose(claim, "ClaimLost", text)
        elif volume is None:
            await self._lose(
                claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            )
        elif volume.spec.claim_ref is None or volume.spec.claim_ref.uid in ("", claim.metadata.uid):
            if volume.spec.claim_ref is None or is_prebound(volume, claim):
                return await self._bind(volume, claim)
        else:
            text = "Two claims are bound to the same volume, this one is bound incorrectly"
            await self._lose(claim, "ClaimMisbound", text)
        return DONE

    async def _lose(self, claim: PersistentVolumeClaim, reason: str, message: str) -> None:
        if claim.status.phase != "Lost":
            status = replace(claim.status, phase="Lost", access_modes=(), capacity={})
            await self._write_claim_status(replace(claim, status=status))
            self._recorder.event(claim, WARNING, reason, message)

    # Binding

    async def _bind(self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> Result:
        """The four writes, as far as they are not made yet."""
        self._taken.add(volume.metadata.name)
        try:
            volume = await self._bind_volume(volume, claim)
        finally:
            self._taken.discard(volume.metadata.name)
        volume = await self._set_volume_phase(volume, "Bound")
        claim = await self._bind_claim(volume, claim)
        await self._set_claim_phase(claim, "Bound", volume)
        return DONE

    async def _bind_volume(self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> PersistentVolume:
        reference = volume.spec.claim_ref
        if reference is not None and reference.uid == claim.metadata.uid:
            return volume
        annotations = dict(volume.metadata.annotations)
        if reference is None:
            annotations[claims.BOUND_BY_CONTROLLER] = "yes"
        metadata = replace(volume.metadata, annotations=annotations)
        spec = replace(volume.spec, claim_ref=claims.reference_of(claim))
        return self._volumes.note(await self._client.update(replace(volume, metadata=metadata, spec=spec)))

    async def _bind_claim(self, volume: PersistentVolume, claim: PersistentVolumeClaim) -> PersistentVolumeClaim:
        annotations = {**claim.metadata.annotations, claims.BIND_COMPLETED: "yes"}
        if not claim.spec.volume_name:
            annotations[claims.BOUND_BY_CONTROLLER] = "yes"
        if annotations == dict(claim.metadata.annotations):
            return claim
        metadata = replace(claim.metadata, annotations=annotations)
        spec = replace(claim.spec, volume_name=volume.metadata.name)
        return self._claims.note(await self._client.update(replace(claim, metadata=metadata, spec=spec)))

    async def _set_claim_phase(
        self, claim: PersistentVolumeClaim, phase: str, volume: PersistentVolume | None = None
    ) -> None:
        status = replace(claim.status, phase=phase)
        if volume is None:
            status = replace(status, access_modes=(), capacity={})
        elif claim.status.phase != "Bound":
            # Once bound, the capacity is what the file system was grown to: the expander's.
            storage = {"storage": volume.spec.capacity["storage"]} if "storage" in volume.spec.capacity else {}
            attributes = volume.spec.volume_attributes_class_name
            status = replace(
                status,
                access_modes=volume.spec.access_modes,
                capacity={**status.capacity, **storage},
                current_volume_attributes_class_name=attributes or None,
            )
        if status != claim.status:
            await self._write_claim_status(replace(claim, status=status))

    async def _write_claim_status(self, claim: PersistentVolumeClaim) -> None:
        self._claims.note(await self._client.update_status(claim))

    # Volumes

    async def _sync_volume(self, volume: PersistentVolume) -> Result:
        reference = volume.spec.claim_ref
        if reference is None or not reference.uid:
            # Free, or kept for a claim that is not there yet.
            await self._set_volume_phase(volume, "Available")
            return DONE
        claim = await self._claim_of(volume)
        if claim is None:
            return await self._release(volume)
        if not claim.spec.volume_name:
            self.queue.add(key_of(claim))
        elif claim.spec.volume_name == volume.metadata.name:
            await self._set_volume_phase(volume, "Bound")
        else:
            return await self._unbind(volume)
        return DONE

    async def _claim_of(self, volume: PersistentVolume) -> PersistentVolumeClaim | None:
        """The claim the volume is bound to; releasing it needs certainty, so a cache without it is not enough."""
        reference = volume.spec.claim_ref
        assert reference is not None
        claim = self._claims.get(claim_key(reference))
        if claim is None or claim.metadata.uid != reference.uid:
            claim = None
            with suppress(NotFoundError):
                claim = await self._client.get(PersistentVolumeClaim, claim_key(reference))
        return claim if claim is not None and claim.metadata.uid == reference.uid else None

    async def _unbind(self, volume: PersistentVolume) -> Result:
        """The claim went to another volume meanwhile: this one is free again, or was made for nothing."""
        dynamic = claims.PROVISIONED_BY in volume.metadata.annotations
        if dynamic and volume.spec.persistent_volume_reclaim_policy == "Delete":
            return await self._release(volume)
        annotations = dict(volume.metadata.annotations)
        reference = volume.spec.claim_ref
        if annotations.pop(claims.BOUND_BY_CONTROLLER, None) is not None:
            reference = None
        elif reference is not None:
            reference = replace(reference, uid="", resource_version="")
        metadata = replace(volume.metadata, annotations=annotations)
        changed = replace(volume, metadata=metadata, spec=replace(volume.spec, claim_ref=reference))
        volume = self._volumes.note(await self._client.update(changed))
        await self._set_volume_phase(volume, "Available")
        return DONE

    async def _release(self, volume: PersistentVolume) -> Result:
        if volume.status.phase not in ("Released", "Failed"):
            volume = await self._set_volume_phase(volume, "Released")
        if volume.metadata.deletion_timestamp is not None or claims.PROVISIONED_BY in volume.metadata.annotations:
            return DONE  # Whoever made it deletes it, what it stands for first.
        failure = FAILURES.get(volume.spec.persistent_volume_reclaim_policy)
        if failure is not None and volume.status.phase != "Failed":
            reason, text = failure
            await self._set_volume_phase(volume, "Failed", text)
            self._recorder.event(volume, WARNING, reason, text)
        return DONE

    async def _set_volume_phase(self, volume: PersistentVolume, phase: str, message: str = "") -> PersistentVolume:
        if volume.status.phase == phase:
            return volume
        changed = replace(volume, status=replace(volume.status, phase=phase, message=message))
        return self._volumes.note(await self._client.update_status(changed))
