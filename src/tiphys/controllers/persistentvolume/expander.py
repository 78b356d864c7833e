"""Notices claims that ask for more than they have. Nothing in this program can grow a volume: drivers do.

https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.client import DONE, NORMAL, Controller, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.persistentvolume.claims import requested
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import parse_cached

MESSAGE: Final = (
    "Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to "
    "process this PVC."
)


def wants_to_grow(claim: PersistentVolumeClaim) -> bool:
    """Whether a bound claim asks for more than it has."""
    if claim.status.phase != "Bound" or "storage" not in claim.status.capacity:
        return False
    return requested(claim) > parse_cached(claim.status.capacity["storage"]).value()


class PersistentVolumeExpander(Controller[ObjectName]):
    """The controller `persistentvolume-expander-controller`; its keys are claims."""

    name = "volume_expand"

    def __init__(self, context: ControllerContext) -> None:
        self._recorder = context.recorder("volume_expand")
        self._claims = context.informers.of(PersistentVolumeClaim)
        self._volumes = context.informers.of(PersistentVolume)
        super().__init__(context.clock, (self._claims, self._volumes))
        self._claims.add_handler(self._changed, lambda _, new: self._changed(new), None)

    def _changed(self, claim: PersistentVolumeClaim) -> None:
        if wants_to_grow(claim):
            self.queue.add(key_of(claim))

    async def sync(self, key: ObjectName) -> Result:
        """Say of one claim whom it waits for."""
        claim = self._claims.lister.get(key)
        if claim is None or not wants_to_grow(claim):
            return DONE
        volume = self._volumes.lister.get(ObjectName("", claim.spec.volume_name))
        reference = volume.spec.claim_ref if volume is not None else None
        if reference is not None and reference.uid == claim.metadata.uid:
            self._recorder.event(claim, NORMAL, "ExternalExpanding", MESSAGE)
        return DONE
