"""VolumeRestrictions: a ReadWriteOncePod claim is used by one pod at a time, in the whole cluster.

Source: "Persistent Volumes", access modes; KEP-2485.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from tiphys.api.core.v1 import PersistentVolumeClaim
from tiphys.client import Lister
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo

REASON: Final = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
EXCLUSIVE: Final = "ReadWriteOncePod"


def shares_claim(pod: PodInfo, old: object, _new: object) -> bool:
    return not isinstance(old, PodInfo) or bool(set(pod.claims) & set(old.claims))


class VolumeRestrictions:
    name: ClassVar[str] = "VolumeRestrictions"
    requeue_on: ClassVar[Requeue] = {Event.POD_DELETE: shares_claim, Event.NODE_ADD: always, Event.CLAIM: always}

    def __init__(self, claims: Lister[PersistentVolumeClaim]) -> None:
        self._claims = claims

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        for key in pod.claims:
            claim = self._claims.get(key)
            if claim is not None and EXCLUSIVE in claim.spec.access_modes and nodes.claim_rows.get(key):
                return None
        return SKIP

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        """No node will do while a pod on any has the claim; evicting that pod would help."""
        return Verdict(np.zeros(nodes.width, dtype=np.bool_), REASON)
