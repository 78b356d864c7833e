"""NodeName: a pod that names its node goes nowhere else."""

from __future__ import annotations

from typing import ClassVar

from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo

REASON = "node(s) didn't match the requested node name"


class NodeName:
    name: ClassVar[str] = "NodeName"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {Event.NODE_ADD: always}

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        return None if pod.node_name else SKIP

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        row = nodes.row_of.get(pod.node_name)
        return Verdict(nodes.mask_of(set() if row is None else {row}), REASON, resolvable=False)
