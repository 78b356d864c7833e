"""TaintToleration: nodes' taints against the pod's tolerations. Source: "Taints and Tolerations".

Nodes with the same list of taints are decided together: the table numbers the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tiphys.api.core.v1 import Node, Toleration
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import CycleState, Reason, Verdict
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers, TaintKey
from tiphys.scheduler.plugins.normalize import by_highest
from tiphys.scheduler.podinfo import PodInfo

HARD_EFFECTS = ("NoSchedule", "NoExecute")
SOFT_EFFECT = "PreferNoSchedule"


def tolerates(toleration: Toleration, taint: TaintKey) -> bool:
    """Whether one toleration covers one taint. An empty effect covers all; an empty key with Exists, all keys."""
    key, value, effect = taint
    if toleration.effect and toleration.effect != effect:
        return False
    if toleration.key and toleration.key != key:
        return False
    match toleration.operator:
        case "Exists":
            return True
        case "" | "Equal":
            return bool(toleration.key) and toleration.value == value
        case "Lt" | "Gt":
            try:
                ours, bound = int(value), int(toleration.value)
            except ValueError:
                return False
            return ours < bound if toleration.operator == "Lt" else ours > bound
    return False


def first_untolerated(taints: Sequence[TaintKey], tolerations: Sequence[Toleration]) -> TaintKey | None:
    """The first taint that keeps the pod off the node."""
    for taint in taints:
        if taint[2] in HARD_EFFECTS and not any(tolerates(toleration, taint) for toleration in tolerations):
            return taint
    return None


def tolerated_mask(nodes: NodeTable, pod: PodInfo) -> Mask:
    """Rows none of whose taints keeps the pod away."""

    def compute() -> Mask:
        tolerations = pod.pod.spec.tolerations
        passes = np.array([first_untolerated(taints, tolerations) is None for taints in nodes.taint_sets])
        mask: Mask = passes[nodes.taint_set]
        return mask

    return nodes.remember(("taints", pod.tolerations_key), compute)


def now_tolerated(pod: PodInfo, _old: object, new: object) -> bool:
    """A node helps when the pod tolerates its taints."""
    if not isinstance(new, Node):
        return True
    taints = [(taint.key, taint.value, taint.effect) for taint in new.spec.taints]
    return first_untolerated(taints, pod.pod.spec.tolerations) is None


class TaintToleration:
    name: ClassVar[str] = "TaintToleration"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: now_tolerated,
        Event.NODE_TAINT: now_tolerated,
        Event.TARGET_POD_UPDATE: always,
    }

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        if len(nodes.taint_sets) == 1:
            return None

        def explain(rejected: Mask) -> list[Reason]:
            reasons = []
            for taints, number in nodes.taint_sets.items():
                rows = rejected & (nodes.taint_set == number)
                taint = first_untolerated(taints, pod.pod.spec.tolerations)
                if taint is not None and rows.any():
                    text = f"node(s) had untolerated taint {{{taint[0]}: {taint[1]}}}"
                    reasons.append(Reason(text, rows, resolvable=False))
            return reasons

        return Verdict(tolerated_mask(nodes, pod), explain, resolvable=False)

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        """Fewer untolerated PreferNoSchedule taints are better."""
        if not any(taint[2] == SOFT_EFFECT for taints in nodes.taint_sets for taint in taints):
            return None
        tolerations = [one for one in pod.pod.spec.tolerations if one.effect in ("", SOFT_EFFECT)]
        soft = [[taint for taint in taints if taint[2] == SOFT_EFFECT] for taints in nodes.taint_sets]
        untolerated = [
            sum(not any(tolerates(one, taint) for one in tolerations) for taint in taints) for taints in soft
        ]
        counts = np.array(untolerated, dtype=np.float64)
        return by_highest(counts[nodes.taint_set], feasible, reverse=True)
