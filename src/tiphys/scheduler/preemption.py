"""Whom to evict so that a pod fits: decisions only; `plugins/default_preemption.py` carries them out.

On each candidate node: take away every pod of lower priority; if the pod fits then, put them back one by one,
the most important first and those a disruption budget protects before the others, as long as the pod still
fits. Who could not be put back is a victim. Source: "Pod Priority and Preemption".

Many pods of one kind ask one after another, and a node answers all of them alike until something of it changes: where
no filter looks beyond the node, what was found is remembered by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from tiphys.api.policy.v1 import PodDisruptionBudget
from tiphys.machinery.selectors import LabelSelector
from tiphys.scheduler.framework.diagnosis import listed
from tiphys.scheduler.framework.interface import Filters, Reason
from tiphys.scheduler.nodetable import Mask, NodeTable
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.remembered import Remembered

NO_VICTIMS: Final = "No preemption victims found for incoming pod"
NOT_HELPFUL: Final = "Preemption is not helpful for scheduling"
LATEST: Final = datetime.max.replace(tzinfo=UTC)
# Makes every priority positive, so that more victims always add up to more.
PRIORITY_OFFSET: Final = 2**31

Rejections = Callable[[int], Sequence[Reason]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node and whom to evict there, the most important first. The least `harm` is best."""

    node: str
    row: int
    victims: tuple[PodInfo, ...]
    violations: int  # victims whose disruption budget does not allow it
    harm: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "harm", _harm(self.victims, self.violations))


class Answers(Remembered[Candidate | str]):
    """What `victims_on` said: whom to evict on a row, or why that does not help."""

    def __init__(self) -> None:
        super().__init__(lambda answer: isinstance(answer, Candidate))


def started(pod: PodInfo) -> datetime:
    """A pod that has not started counts as the latest."""
    return pod.pod.status.start_time or LATEST


def importance(pod: PodInfo) -> tuple[int, datetime]:
    """Ascending from the most important: higher priority, then longer running."""
    return -pod.priority, started(pod)


def protected(
    victims: Sequence[PodInfo], budgets: Iterable[PodDisruptionBudget]
) -> tuple[list[PodInfo], list[PodInfo]]:
    """The victims whose eviction would break a budget, given those before them, and the others."""
    parsed = [
        (budget, LabelSelector.of_dict(budget.spec.selector), budget.status.disruptions_allowed) for budget in budgets
    ]
    allowed = [left for _, _, left in parsed]
    violating: list[PodInfo] = []
    others: list[PodInfo] = []
    for victim in victims:
        breaks = False
        for number, (budget, selector, _) in enumerate(parsed):
            if budget.metadata.namespace != victim.namespace or selector.empty or not selector.matches(victim.labels):
                continue
            if victim.key.name in budget.status.disrupted_pods:
                continue  # its eviction is counted already
            allowed[number] -= 1
            breaks |= allowed[number] < 0
        (violating if breaks else others).append(victim)
    return violating, others


@contextmanager
def what_if(nodes: NodeTable, row: int, without: Sequence[PodInfo], with_: Sequence[PodInfo]) -> Iterator[None]:
    """The table with pods of `row` taken away and others added; as before afterwards, whatever was done meanwhile."""
    info = nodes.rows[row]
    assert info is not None
    before, version = dict(info.pods), int(nodes.row_versions[row])
    for pod in without:
        nodes.remove_pod(pod, row)
    for pod in with_:
        if pod.uid not in info.pods:
            nodes.add_pod(pod, row)
    try:
        yield
    finally:
        for uid, pod in list(info.pods.items()):
            if before.get(uid) is not pod:
                nodes.remove_pod(pod, row)
        for uid, pod in before.items():
            if uid not in info.pods:
                nodes.add_pod(pod, row)
        nodes.row_versions[row] = version


def victims_on(
    pod: PodInfo,
    nodes: NodeTable,
    row: int,
    rejections: Rejections,
    budgets: Sequence[PodDisruptionBudget],
    nominated: Sequence[PodInfo] = (),
) -> Candidate | str:
    """The fewest victims that make room on one node, or why there are none.

    `nominated` are other pods, at least as important, for which room was made there.
    """
    info = nodes.rows[row]
    assert info is not None
    lower = sorted((other for other in info.pods.values() if other.priority < pod.priority), key=importance)
    if not lower:
        return NO_VICTIMS
    with what_if(nodes, row, lower, nominated):
        reasons = rejections(row)
        if reasons:
            return reasons[0].text
        violating, others = protected(lower, budgets)
        victims: list[PodInfo] = []
        violations = 0
        for group in (violating, others):
            for candidate in group:
                nodes.add_pod(candidate, row)
                if rejections(row):
                    nodes.remove_pod(candidate, row)
                    victims.append(candidate)
                    violations += group is violating
    return Candidate(nodes.name_of(row), row, tuple(sorted(victims, key=importance)), violations)


def find_candidates(
    pod: PodInfo,
    nodes: NodeTable,
    resolvable: Mask,
    filters: Filters,
    budgets: Sequence[PodDisruptionBudget],
    *,
    rivals_on: Callable[[str], Sequence[PodInfo]],
    start: int,
    wanted: int,
    answers: Answers,
    own_row: int | None = None,
) -> tuple[list[Candidate], str]:
    """Candidates from a random node on, until there are `wanted`, and what is said when there is none.

    `rivals_on`: by node, the other pods at least as important for which room was made there. `start` is a row;
    `own_row` the one on which room was made for the pod itself before.
    """
    local = filters.row_local(pod, nodes)
    budgets_key = tuple((one.metadata.uid, one.metadata.resource_version) for one in budgets)
    known = answers.of((pod.fit_key, pod.priority, budgets_key))

    def general(row: int) -> Sequence[Reason]:
        return filters.rejections(pod, nodes, row)

    def ask(row: int) -> Candidate | str:
        rivals = rivals_on(nodes.name_of(row))
        # Rivals with rules about other pods make the pod look beyond the node.
        if local is None or any(rival.has_affinity_terms for rival in rivals):
            return victims_on(pod, nodes, row, general, budgets, rivals)
        if row == own_row:
            return victims_on(pod, nodes, row, local, budgets, rivals)  # to others the pod is a rival there
        return known.get(nodes, row, lambda: victims_on(pod, nodes, row, local, budgets, rivals))

    hopeless = known.known_bad(nodes) if local is not None else np.zeros(nodes.width, dtype=np.bool_)
    if own_row is not None:
        hopeless[own_row] = False
    candidates: list[Candidate] = []
    reasons = Counter({NOT_HELPFUL: int(np.count_nonzero(nodes.alive & ~resolvable))})
    acceptable = False
    for row in _from(np.flatnonzero(resolvable & ~hopeless), start):
        found = ask(row)
        if isinstance(found, str):
            reasons[found] += 1
            continue
        candidates.append(found)
        acceptable |= not found.violations
        if acceptable and len(candidates) >= wanted:
            break
    if not candidates:  # only then anybody asks why
        reasons.update(str(ask(row)) for row in np.flatnonzero(resolvable & hopeless).tolist())
    return candidates, f"0/{len(nodes)} nodes are available: {listed(reasons)}."


def _from(rows: npt.NDArray[np.intp], start: int) -> list[int]:
    """The rows from `start` on, then those before it."""
    rolled: list[int] = np.roll(rows, -int(np.searchsorted(rows, start))).tolist()
    return rolled


def best_candidate(candidates: Sequence[Candidate]) -> Candidate:
    """Fewest broken budgets, least important victims, fewest of them, the latest started; the first of equals."""
    return min(candidates, key=lambda candidate: candidate.harm)


def _harm(victims: Sequence[PodInfo], violations: int) -> tuple[float, ...]:
    if not victims:
        return (-1.0,)
    highest = victims[0].priority
    earliest = min(started(victim) for victim in victims if victim.priority == highest)
    return (
        violations,
        highest,
        sum(victim.priority + PRIORITY_OFFSET for victim in victims),
        len(victims),
        -earliest.timestamp() if earliest is not LATEST else -np.inf,
    )


def candidates_wanted(nodes: int, percentage: int, absolute: int) -> int:
    """How many candidates are enough: a share of the nodes, but not too few."""
    return min(max(nodes * percentage // 100, absolute), nodes)
