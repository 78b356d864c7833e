"""NodeAffinity: nodeSelector, and required and preferred node affinity. Source: "Assigning Pods to Nodes"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

import numpy as np

from tiphys.api.core.v1 import NodeAffinity as NodeAffinityRules
from tiphys.api.core.v1 import NodeSelectorRequirement, PreferredSchedulingTerm
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Narrowed, Refusal, Skip, Verdict
from tiphys.scheduler.nodeselector import NAME_FIELD, required_mask, required_selector, selector_mask, term_mask
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.plugins.normalize import by_highest
from tiphys.scheduler.podinfo import PodInfo

REASON: Final = "node(s) didn't match Pod's node affinity/selector"
REASON_ENFORCED: Final = "node(s) didn't match scheduler-enforced node affinity"
REASON_CONFLICT: Final = "pod affinity terms conflict"


def preferred_terms(pod: PodInfo) -> tuple[PreferredSchedulingTerm, ...]:
    affinity = pod.pod.spec.affinity
    if affinity is None or affinity.node_affinity is None:
        return ()
    return affinity.node_affinity.preferred_during_scheduling_ignored_during_execution


def only_names(pod: PodInfo) -> frozenset[str] | None:
    """The node names the pod's affinity comes down to; None when some term does not name nodes."""
    required = required_selector(pod)
    if required is None or not required.node_selector_terms:
        return None
    names: set[str] = set()
    for term in required.node_selector_terms:
        fields = [one for one in term.match_fields if one.key == NAME_FIELD and one.operator == "In"]
        if not fields:
            return None
        names |= frozenset.intersection(*(_values(one) for one in fields))
    return frozenset(names)


def _values(requirement: NodeSelectorRequirement) -> frozenset[str]:
    return frozenset(requirement.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAffinity:
    """`added_affinity`: rules of the profile, on top of each pod's own."""

    name: ClassVar[str] = "NodeAffinity"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: always,
        Event.NODE_LABEL: always,
        Event.TARGET_POD_UPDATE: always,
    }
    added_affinity: NodeAffinityRules | None = None

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Refusal | Narrowed | Skip | None:
        if not pod.node_key and self.added_affinity is None:
            return SKIP
        names = only_names(pod)
        if names is None:
            return None
        return Narrowed(names) if names else Refusal(REASON_CONFLICT)

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        if self.added_affinity is not None:
            added = self.added_affinity.required_during_scheduling_ignored_during_execution
            if added is not None:
                enforced = selector_mask(nodes, added)
                if not enforced.all():
                    mine = required_mask(nodes, pod)
                    passed = enforced if mine is None else enforced & mine
                    return Verdict(passed, REASON_ENFORCED, resolvable=False)
        mask = required_mask(nodes, pod)
        return None if mask is None else Verdict(mask, REASON, resolvable=False)

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        """The sum of the weights of the preferred terms a node matches."""
        terms = preferred_terms(pod)
        if self.added_affinity is not None:
            terms += self.added_affinity.preferred_during_scheduling_ignored_during_execution
        if not terms:
            return None
        raw = np.zeros(nodes.width)
        for number, term in enumerate(terms):
            preference = term.preference
            raw += term.weight * nodes.remember(
                ("preferred", number, pod.node_key), partial(term_mask, nodes, preference)
            )
        return by_highest(raw, feasible)
