"""NodeVolumeLimits: a CSI driver attaches only so many volumes to a node, as its CSINode says.

A volume counts once a node, however many pods there use it; a claim that is not bound yet counts as the volume its
class will make. Source: "Node-specific Volume Limits".
"""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar, Final

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.api.storage.v1 import CSINode, StorageClass
from tiphys.client import Lister
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, StateKey, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.volumes import NO_PROVISIONER, class_of

REASON: Final = "node(s) exceed max volume count"

# driver → the handles of its volumes
Attached = dict[str, set[str]]
WANTED: Final[StateKey[Attached]] = StateKey("NodeVolumeLimits")


class NodeVolumeLimits:
    name: ClassVar[str] = "NodeVolumeLimits"
    requeue_on: ClassVar[Requeue] = {
        Event.CSI_NODE: always,
        Event.POD_DELETE: always,
        Event.CLAIM: always,
        Event.NODE_ADD: always,
    }

    def __init__(
        self,
        claims: Lister[PersistentVolumeClaim],
        volumes: Lister[PersistentVolume],
        classes: Lister[StorageClass],
        nodes: Lister[CSINode],
    ) -> None:
        self._claims = claims
        self._volumes = volumes
        self._classes = classes
        self._nodes = nodes

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        wanted: Attached = defaultdict(set)
        for key in pod.claims:
            if found := self._volume_of(key):
                wanted[found[0]].add(found[1])
        if not wanted:
            return SKIP
        state.write(WANTED, wanted)
        return None

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        wanted = state.read(WANTED)
        limits = self._limits(wanted, nodes)
        if not limits:
            return None
        attached = self._attached(nodes, wanted)
        full: set[int] = set()
        for (row, driver), limit in limits.items():
            there = attached.get((row, driver), set())
            new = wanted[driver] - there
            if new and len(there) + len(new) > limit:
                full.add(row)
        return Verdict(~nodes.mask_of(full), REASON) if full else None

    def _limits(self, wanted: Attached, nodes: NodeTable) -> dict[tuple[int, str], int]:
        """(row, driver) → how many volumes, where there is a limit."""
        found: dict[tuple[int, str], int] = {}
        for node in self._nodes.list():
            row = nodes.row_of.get(node.metadata.name)
            for driver in node.spec.drivers if row is not None else ():
                count = driver.allocatable.count if driver.allocatable else None
                if row is not None and count is not None and driver.name in wanted:
                    found[row, driver.name] = count
        return found

    def _attached(self, nodes: NodeTable, drivers: Attached) -> dict[tuple[int, str], set[str]]:
        """(row, driver) → the volumes that placed pods use there."""
        found: dict[tuple[int, str], set[str]] = defaultdict(set)
        for key, rows in nodes.claim_rows.items():
            volume = self._volume_of(key)
            if volume and volume[0] in drivers:
                for row in rows:
                    found[row, volume[0]].add(volume[1])
        return found

    def _volume_of(self, key: ObjectName) -> tuple[str, str] | None:
        """The driver and handle of a claim's volume, or of the one it will get; None where no driver attaches it."""
        claim = self._claims.get(key)
        if claim is None:
            return None
        if claim.spec.volume_name:
            volume = self._volumes.get(ObjectName("", claim.spec.volume_name))
            csi = volume.spec.csi if volume else None
            if csi is not None:
                return csi.driver, csi.volume_handle
            if volume is not None:
                return None
        storage_class = self._classes.get(ObjectName("", class_of(claim)))
        provisioner = storage_class.provisioner if storage_class else ""
        if not provisioner or provisioner == NO_PROVISIONER:
            return None
        return provisioner, f"claim {key}"
