"""NodeUnschedulable: cordoned nodes take only pods that tolerate it."""

from __future__ import annotations

from typing import ClassVar, Final

from tiphys.api.core.v1 import Node
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import CycleState, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.plugins.taint_toleration import tolerates
from tiphys.scheduler.podinfo import PodInfo

REASON: Final = "node(s) were unschedulable"
TAINT: Final = ("node.kubernetes.io/unschedulable", "", "NoSchedule")


def schedulable(_pod: PodInfo, _old: object, new: object) -> bool:
    return not isinstance(new, Node) or not new.spec.unschedulable


class NodeUnschedulable:
    name: ClassVar[str] = "NodeUnschedulable"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: schedulable,
        Event.NODE_TAINT: schedulable,
        Event.TARGET_POD_UPDATE: always,
    }

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        if not nodes.unschedulable.any():
            return None
        if any(tolerates(toleration, TAINT) for toleration in pod.pod.spec.tolerations):
            return None
        return Verdict(~nodes.unschedulable, REASON, resolvable=False)
