"""Makes the claims of generic ephemeral volumes; each belongs to its pod and goes with it.

https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes
"""

from __future__ import annotations

from contextlib import suppress

from tiphys.api.core.v1 import PersistentVolumeClaim, Pod, Volume
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import DONE, WARNING, Controller, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.owners import controlled_by, controller_reference
from tiphys.controllers.common.podcontrol import namespace_terminating
from tiphys.controllers.persistentvolume.binder import RESYNC
from tiphys.machinery.errors import AlreadyExistsError, StatusError
from tiphys.machinery.meta import ObjectName


def claim_of(pod: Pod, volume: Volume) -> PersistentVolumeClaim | None:
    """The claim an ephemeral volume stands for; None for a volume of another kind."""
    if volume.ephemeral is None or volume.ephemeral.volume_claim_template is None:
        return None
    template = volume.ephemeral.volume_claim_template
    return PersistentVolumeClaim(
        metadata=ObjectMeta(
            name=f"{pod.metadata.name}-{volume.name}",
            namespace=pod.metadata.namespace,
            labels=template.metadata.labels,
            annotations=template.metadata.annotations,
            owner_references=(controller_reference(pod),),
        ),
        spec=template.spec,
    )


class EphemeralVolumeController(Controller[ObjectName]):
    """The controller `ephemeral-volume-controller`; its keys are pods."""

    name = "ephemeral_volume"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("ephemeral_volume")
        self._pods = context.informers.of(Pod)
        self._claims = context.informers.of(PersistentVolumeClaim)
        super().__init__(context.clock, (self._pods, self._claims))
        self._pods.add_handler(self._pod_added, lambda _, new: self._pod_added(new), None)
        self._claims.add_handler(None, None, self._claim_gone)

    def _pod_added(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp is None and any(volume.ephemeral for volume in pod.spec.volumes):
            self.queue.add(key_of(pod))

    def _claim_gone(self, claim: PersistentVolumeClaim) -> None:
        for owner in claim.metadata.owner_references:
            if owner.controller and owner.kind == "Pod":
                self.queue.add(ObjectName(claim.metadata.namespace, owner.name))

    async def sync(self, key: ObjectName) -> Result:
        """Make the missing claims of one pod."""
        pod = self._pods.lister.get(key)
        if pod is None or pod.metadata.deletion_timestamp is not None:
            return DONE
        result: Result = DONE
        for volume in pod.spec.volumes:
            claim = claim_of(pod, volume)
            if claim is not None and not await self._ensure(pod, volume, claim):
                result = RESYNC
        return result

    async def _ensure(self, pod: Pod, volume: Volume, claim: PersistentVolumeClaim) -> bool:
        """Whether the pod's claim is there; a claim of the name that is not the pod's is a conflict, and said."""
        existing = self._claims.lister.get(key_of(claim))
        if existing is None:
            try:
                with suppress(AlreadyExistsError):
                    await self._client.create(claim)
                    return True
            except StatusError as error:
                if namespace_terminating(error):
                    return True
                self._recorder.event(pod, WARNING, "FailedBinding", f"ephemeral volume {volume.name}: {error.message}")
                raise
            return False
        if controlled_by(existing, pod):
            return True
        text = f'PVC "{key_of(claim)}" was not created for pod "{key_of(pod)}" (pod is not owner)'
        self._recorder.event(pod, WARNING, "FailedBinding", f"ephemeral volume {volume.name}: {text}")
        return False
