"""InterPodAffinity: required and preferred affinity and anti-affinity between pods, in both directions.

Both directions: a placed pod's required anti-affinity keeps the new pod away, and its affinity terms attract it.
Source: "Inter-pod affinity and anti-affinity".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import MAX_SCORE, SKIP, CycleState, Reason, Skip, StateKey, Verdict
from tiphys.scheduler.handle import Namespaces
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podindex import TermKind
from tiphys.scheduler.podinfo import AffinityTerm, PodInfo
from tiphys.scheduler.topology import domain_sums, pod_counts, selection_of

REASON_EXISTING: Final = "node(s) didn't satisfy existing pods anti-affinity rules"
REASON_AFFINITY: Final = "node(s) didn't match pod affinity rules"
REASON_ANTI: Final = "node(s) didn't match pod anti-affinity rules"


@dataclass(frozen=True, slots=True)
class Domains:
    """For one topology key, which domains are meant, by number of the label's value."""

    label: str
    marked: Mask

    def rows(self, nodes: NodeTable) -> Mask:
        """Rows in view that lie in a marked domain."""
        rows: Mask = self.marked[nodes.label_ids(self.label)]
        return rows


@dataclass(frozen=True, slots=True)
class Prepared:
    """Filter needs every one of `wanted` and none of the others."""

    wanted: tuple[Domains, ...]
    unwanted: tuple[Domains, ...]  # the pod's own anti-affinity
    forbidden: tuple[Domains, ...]  # that of placed pods


PREPARED: Final[StateKey[Prepared]] = StateKey("InterPodAffinity")
SCORES: Final[StateKey[Numbers]] = StateKey("InterPodAffinity scores")


def concerns(pod: PodInfo, old: object, new: object) -> bool:
    """A placed pod's change matters when a term of either selects the other."""
    for other in (old, new):
        if isinstance(other, PodInfo) and (
            any(_may_select(term, other) for term in (*pod.affinity, *pod.anti_affinity))
            or any(_may_select(term, pod) for term in other.anti_affinity)
        ):
            return True
    return False


def _may_select(term: AffinityTerm, pod: PodInfo) -> bool:
    # Which namespaces a selector means is left open here: trying once too often is harmless.
    return (pod.namespace in term.namespaces or term.namespace_selector is not None) and term.selector.matches(
        pod.labels
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InterPodAffinity:
    name: ClassVar[str] = "InterPodAffinity"
    requeue_on: ClassVar[Requeue] = {
        Event.POD_ADD: concerns,
        Event.POD_UPDATE: concerns,
        Event.POD_DELETE: concerns,
        Event.NODE_ADD: always,
        Event.NODE_LABEL: always,
        Event.NAMESPACE_LABEL: always,
        Event.TARGET_POD_UPDATE: always,
    }
    namespaces: Namespaces
    hard_pod_affinity_weight: int = 1
    ignore_preferred_terms_of_existing_pods: bool = False

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        forbidden = tuple(
            Domains(
                group.term.topology_key, domain_sums(nodes, group.term.topology_key, group.counts[nodes.all_rows]) > 0
            )
            for group in nodes.pods.terms_selecting(TermKind.ANTI_AFFINITY, pod)
        )
        unwanted = tuple(self._occupied(nodes, term.topology_key, (term,)) for term in pod.anti_affinity)
        wanted = self._wanted(pod, nodes) if pod.affinity else ()
        if not (forbidden or unwanted or wanted):
            return SKIP
        state.write(PREPARED, Prepared(wanted, unwanted, forbidden))
        return None

    def _occupied(self, nodes: NodeTable, label: str, terms: Sequence[AffinityTerm]) -> Domains:
        """The domains that have a pod which all `terms` select."""
        counts = pod_counts(nodes, selection_of(terms, self.namespaces))
        return Domains(label, domain_sums(nodes, label, counts) > 0)

    def _wanted(self, pod: PodInfo, nodes: NodeTable) -> tuple[Domains, ...]:
        """Where the affinity terms are met. The first pod of a group that selects itself may start anywhere."""
        wanted = tuple(self._occupied(nodes, term.topology_key, pod.affinity) for term in pod.affinity)
        if any(domains.marked.any() for domains in wanted):
            return wanted
        labels = self.namespaces.labels(pod.namespace)
        if all(term.matches(pod.namespace, labels, pod.labels) for term in pod.affinity):
            return tuple(_everywhere(nodes, term.topology_key) for term in pod.affinity)
        return wanted

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        prepared = state.read(PREPARED)
        affine = _all(nodes, prepared.wanted)
        own = _any(nodes, prepared.unwanted)
        theirs = _any(nodes, prepared.forbidden)

        def explain(rejected: Mask) -> list[Reason]:
            # One reason a node, in this order.
            reasons = [Reason(REASON_AFFINITY, rejected & ~affine, resolvable=False)]
            rejected = rejected & affine
            reasons.append(Reason(REASON_ANTI, rejected & own))
            reasons.append(Reason(REASON_EXISTING, rejected & ~own & theirs))
            return [reason for reason in reasons if reason.rows.any()]

        return Verdict(affine & ~own & ~theirs, explain)

    def pre_score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Skip | None:
        """Sum up, for every row, the weights of all terms that want the pod in its domain."""
        total: Numbers | None = None
        for label, weighted in self._weighted_counts(pod, nodes):
            seen = domain_sums(nodes, label, weighted)[nodes.label_ids(label)]
            total = seen if total is None else total + seen
        if total is None or not total.any():
            return SKIP
        state.write(SCORES, total)
        return None

    def _weighted_counts(self, pod: PodInfo, nodes: NodeTable) -> Iterable[tuple[str, Numbers]]:
        for terms, sign in ((pod.preferred_affinity, 1.0), (pod.preferred_anti_affinity, -1.0)):
            for term in terms:
                yield (
                    term.topology_key,
                    pod_counts(nodes, selection_of((term,), self.namespaces)) * (sign * term.weight),
                )
        index, rows = nodes.pods, nodes.all_rows
        if self.hard_pod_affinity_weight:
            for group in index.terms_selecting(TermKind.AFFINITY, pod):
                yield group.term.topology_key, group.counts[rows] * float(self.hard_pod_affinity_weight)
        if self.ignore_preferred_terms_of_existing_pods and not (pod.preferred_affinity or pod.preferred_anti_affinity):
            return
        for kind, sign in ((TermKind.PREFERRED_AFFINITY, 1.0), (TermKind.PREFERRED_ANTI_AFFINITY, -1.0)):
            for group in index.terms_selecting(kind, pod):
                yield group.term.topology_key, group.counts[rows] * (sign * group.term.weight)

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        raw = state.read(SCORES)
        lowest = float(np.min(raw, where=feasible, initial=np.inf))
        highest = float(np.max(raw, where=feasible, initial=-np.inf))
        if highest <= lowest:
            return None
        scores: Numbers = np.floor(MAX_SCORE * ((raw - lowest) / (highest - lowest)))
        return scores


def _everywhere(nodes: NodeTable, label: str) -> Domains:
    marked = np.ones(nodes.column(label).width, dtype=np.bool_)
    marked[0] = False
    return Domains(label, marked)


def _all(nodes: NodeTable, several: tuple[Domains, ...]) -> Mask:
    result = np.ones(nodes.width, dtype=np.bool_)
    for domains in several:
        result &= domains.rows(nodes)
    return result


def _any(nodes: NodeTable, several: tuple[Domains, ...]) -> Mask:
    result = np.zeros(nodes.width, dtype=np.bool_)
    for domains in several:
        result |= domains.rows(nodes)
    return result
