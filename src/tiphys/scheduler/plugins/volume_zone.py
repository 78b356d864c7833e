"""VolumeZone: volumes that carry a zone or region label are used only from nodes with the same.

Newer volumes say the same by node affinity, which VolumeBinding checks. Source: "Running in multiple zones".
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.client import Lister
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, StateKey, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.volumes import claim_names

REASON: Final = "node(s) had no available volume zone"
LABELS: Final = (
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)
# A volume in several zones names them with this between them.
SEPARATOR: Final = "__"

# (label, values): the node must have one of the values
Wanted = list[tuple[str, frozenset[str]]]
WANTED: Final[StateKey[Wanted]] = StateKey("VolumeZone")


def zones_of(volume: PersistentVolume) -> Wanted:
    """The topology labels of a volume with their values."""
    labels = volume.metadata.labels
    return [(label, frozenset(labels[label].split(SEPARATOR))) for label in LABELS if label in labels]


class VolumeZone:
    name: ClassVar[str] = "VolumeZone"
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: always,
        Event.NODE_LABEL: always,
        Event.CLAIM: always,
        Event.VOLUME: always,
    }

    def __init__(self, claims: Lister[PersistentVolumeClaim], volumes: Lister[PersistentVolume]) -> None:
        self._claims = claims
        self._volumes = volumes

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        wanted: Wanted = []
        for name, _ in claim_names(pod.pod):
            claim = self._claims.get(ObjectName(pod.namespace, name))
            volume = self._volumes.get(ObjectName("", claim.spec.volume_name)) if claim else None
            wanted += zones_of(volume) if volume else []
        if not wanted:
            return SKIP
        state.write(WANTED, wanted)
        return None

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        passed = np.ones(nodes.width, dtype=np.bool_)
        for label, values in state.read(WANTED):
            numbers = [nodes.column(label).values.get(value, -1) for value in values]
            passed &= np.isin(nodes.label_ids(label), numbers)
        return Verdict(passed, REASON, resolvable=False)
