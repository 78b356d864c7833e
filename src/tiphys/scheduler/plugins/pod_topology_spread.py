"""PodTopologySpread: keeps the pods of a selection even over the domains of a topology.

    skew of a domain = its matching pods (+1 if the pod itself matches) - the fewest of any eligible domain

DoNotSchedule constraints filter (skew at most maxSkew), ScheduleAnyway ones score. A pod without constraints
that belongs to a Service or a controller is scored by default ones. Source: "Pod Topology Spread Constraints".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from tiphys.api.core.v1 import TopologySpreadConstraint
from tiphys.machinery.selectors import LabelSelector, Requirement
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import MAX_SCORE, SKIP, CycleState, Reason, Skip, StateKey, Verdict
from tiphys.scheduler.nodeselector import required_mask
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.plugins.taint_toleration import tolerated_mask
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.topology import in_namespace, pod_counts, weighted_sums

REASON: Final = "node(s) didn't match pod topology spread constraints"
REASON_LABEL: Final = f"{REASON} (missing required label)"
HOSTNAME: Final = "kubernetes.io/hostname"
ZONE: Final = "topology.kubernetes.io/zone"


class Constraint(NamedTuple):
    """A constraint as it applies to one pod."""

    label: str
    max_skew: int
    selector: LabelSelector
    min_domains: int
    honor_affinity: bool
    honor_taints: bool


class Spread(NamedTuple):
    """One DoNotSchedule constraint, counted."""

    constraint: Constraint
    sums: Numbers  # matching pods by domain
    fewest: float
    self_match: int


# (pod) -> the selector of the Services and controllers it belongs to; None: none
DefaultSelector = Callable[[PodInfo], LabelSelector | None]
SYSTEM_DEFAULTS: Final = ((HOSTNAME, 3), (ZONE, 5))  # label, maxSkew

SPREADS: Final[StateKey[list[Spread]]] = StateKey("PodTopologySpread")
SCORES: Final[StateKey[tuple[Numbers, Mask]]] = StateKey("PodTopologySpread scores")


def constraint_of(pod: PodInfo, rule: TopologySpreadConstraint) -> Constraint:
    selector = LabelSelector.of_dict(rule.label_selector)
    keys = tuple(Requirement(key, "in", (pod.labels[key],)) for key in rule.match_label_keys if key in pod.labels)
    if keys and not selector.nothing:
        selector = LabelSelector((*selector.requirements, *keys))
    return Constraint(
        rule.topology_key,
        rule.max_skew,
        selector,
        rule.min_domains or 1,
        rule.node_affinity_policy != "Ignore",
        rule.node_taints_policy == "Honor",
    )


def constraints(pod: PodInfo, action: str) -> list[Constraint]:
    return [
        constraint_of(pod, rule)
        for rule in pod.pod.spec.topology_spread_constraints
        if rule.when_unsatisfiable == action
    ]


def counted(pod: PodInfo, old: object, new: object) -> bool:
    """A placed pod matters when some constraint of the waiting one counts it."""
    others = [other for other in (old, new) if isinstance(other, PodInfo) and other.namespace == pod.namespace]
    return any(
        constraint.selector.matches(other.labels)
        for constraint in constraints(pod, "DoNotSchedule")
        for other in others
    )


def eligible(pod: PodInfo, nodes: NodeTable, constraint: Constraint) -> Mask:
    """Rows whose pods count: by the constraint's node inclusion policies."""
    rows: Mask = nodes.alive
    if constraint.honor_affinity and (mask := required_mask(nodes, pod)) is not None:
        rows = rows & mask
    if constraint.honor_taints:
        rows = rows & tolerated_mask(nodes, pod)
    return rows


def with_all_labels(nodes: NodeTable, rules: Sequence[Constraint]) -> Mask:
    result = nodes.label_ids(rules[0].label) > 0
    for rule in rules[1:]:
        result = result & (nodes.label_ids(rule.label) > 0)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTopologySpread:
    """`defaults`: (label, maxSkew) for pods without constraints; the system's also score nodes that have no zone."""

    name: ClassVar[str] = "PodTopologySpread"
    requeue_on: ClassVar[Requeue] = {
        Event.POD_ADD: counted,
        Event.POD_UPDATE: counted,
        Event.POD_DELETE: counted,
        Event.NODE_ADD: always,
        Event.NODE_DELETE: always,
        Event.NODE_LABEL: always,
        Event.NODE_TAINT: always,
        Event.TARGET_POD_UPDATE: always,
    }
    default_selector: DefaultSelector
    defaults: tuple[tuple[str, int], ...] = SYSTEM_DEFAULTS

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        rules = constraints(pod, "DoNotSchedule") if pod.pod.spec.topology_spread_constraints else []
        if not rules:
            return SKIP
        complete = with_all_labels(nodes, rules)
        state.write(SPREADS, [self._count(pod, nodes, rule, complete) for rule in rules])
        return None

    @staticmethod
    def _count(pod: PodInfo, nodes: NodeTable, rule: Constraint, complete: Mask) -> Spread:
        rows = complete & eligible(pod, nodes, rule)
        ids, width = nodes.all_label_ids(rule.label), nodes.column(rule.label).width
        counts = pod_counts(nodes, in_namespace(pod.namespace, rule.selector))
        sums = weighted_sums(ids, counts * rows, width)
        there = np.bincount(ids[rows], minlength=width) > 0
        domains = int(np.count_nonzero(there))
        fewest = float(sums[there].min()) if domains else math.inf
        if domains < rule.min_domains:
            fewest = 0.0
        return Spread(rule, sums, fewest, int(rule.selector.matches(pod.labels)))

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        spreads = state.read(SPREADS)
        labelled = with_all_labels(nodes, [spread.constraint for spread in spreads])
        even = np.ones(nodes.width, dtype=np.bool_)
        for rule, sums, fewest, self_match in spreads:
            even &= (sums + self_match - fewest <= rule.max_skew)[nodes.label_ids(rule.label)]

        def explain(rejected: Mask) -> list[Reason]:
            reasons = [
                Reason(REASON_LABEL, rejected & ~labelled, resolvable=False),
                Reason(REASON, rejected & labelled),
            ]
            return [reason for reason in reasons if reason.rows.any()]

        return Verdict(labelled & even, explain)

    def pre_score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Skip | None:
        """Weigh, for every row, the matching pods of its domains; fewer domains weigh less, by their logarithm."""
        own = pod.pod.spec.topology_spread_constraints
        rules = constraints(pod, "ScheduleAnyway") if own else self._default_constraints(pod)
        if not rules:
            return SKIP
        require_all = bool(own) or self.defaults is not SYSTEM_DEFAULTS
        labelled = with_all_labels(nodes, rules)
        scored = feasible & labelled if require_all else feasible
        raw = np.zeros(nodes.width)
        for rule in rules:
            rows = eligible(pod, nodes, rule)
            raw += self._raw(pod, nodes, rule, rows & labelled if require_all else rows, scored)
        state.write(SCORES, (np.rint(raw), scored))
        return None

    @staticmethod
    def _raw(pod: PodInfo, nodes: NodeTable, rule: Constraint, rows: Mask, scored: Mask) -> Numbers:
        ids = nodes.label_ids(rule.label)
        counts = pod_counts(nodes, in_namespace(pod.namespace, rule.selector))
        if rule.label == HOSTNAME:
            size = int(np.count_nonzero(scored))
            seen: Numbers = counts
        else:
            width = nodes.column(rule.label).width
            size = int(np.count_nonzero(np.bincount(ids[scored], minlength=width)[1:]))
            seen = weighted_sums(ids, counts * rows, width)[ids]
        weight = math.log(size + 2)
        raw: Numbers = np.where(ids > 0, seen * weight + (rule.max_skew - 1), 0.0)
        return raw

    def _default_constraints(self, pod: PodInfo) -> list[Constraint]:
        if not self.defaults:
            return []
        selector = self.default_selector(pod)
        if selector is None:
            return []
        return [Constraint(label, max_skew, selector, 1, True, False) for label, max_skew in self.defaults]

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        raw, scored = state.read(SCORES)
        if not scored.any():
            return None
        highest = float(np.max(raw, where=scored, initial=0.0))
        lowest = float(np.min(raw, where=scored, initial=np.inf))
        if highest == 0.0:
            return np.where(scored, MAX_SCORE, 0.0)
        scores: Numbers = np.where(scored, np.floor(MAX_SCORE * (highest + lowest - raw) / highest), 0.0)
        return scores
