"""Why a pod could not be scheduled, node by node, and in the words users know.

    0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {gpu: true}. preemption: ...

Each node counts for the first plugin that rejected it, with all reasons that plugin gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tiphys.scheduler.framework.interface import Narrowed, Reason, Refusal, Verdict
from tiphys.scheduler.nodetable import Mask, NodeTable

NO_NODES = "no nodes available to schedule pods"


@dataclass(slots=True)
class Unschedulable:
    """No node passed. `plugins` are the names of those that rejected any: their events bring the pod back."""

    node_count: int
    reasons: list[Reason] = field(default_factory=list)
    refusal: Refusal | None = None  # of PreFilter, for the pod as a whole
    plugins: set[str] = field(default_factory=set)
    post_filter_message: str = ""
    rows: Mask = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))  # all nodes there were

    def message(self) -> str:
        """The FailedScheduling event's text."""
        if not self.node_count:
            return NO_NODES
        text = f"0/{self.node_count} nodes are available:"
        if self.refusal is not None:
            text += f" {self.refusal.reason}."
        elif self.reasons:
            text += f" {histogram(self.reasons)}."
        return f"{text} {self.post_filter_message}" if self.post_filter_message else text

    def resolvable(self) -> Mask:
        """Rows where evicting pods could help: no reason against it."""
        if self.refusal is not None:
            return self.rows.copy() if self.refusal.resolvable else np.zeros_like(self.rows)
        able = self.rows.copy()
        for reason in self.reasons:
            able &= ~(reason.rows & ~np.asarray(reason.resolvable))
        return able


def histogram(reasons: list[Reason]) -> str:
    """`2 Insufficient cpu, 1 Too many pods`: sorted as text, as upstream sorts."""
    counts: Counter[str] = Counter()
    for reason in reasons:
        counts[reason.text] += int(np.count_nonzero(reason.rows))
    return listed(counts)


def listed(counts: Mapping[str, int]) -> str:
    """Reasons with the number of nodes each counts for."""
    return ", ".join(sorted(f"{count} {text}" for text, count in counts.items() if count))


def diagnose(nodes: NodeTable, verdicts: list[tuple[str, Verdict]], narrowed: dict[str, Narrowed]) -> Unschedulable:
    """Attribute every node's rejection to the first plugin against it."""
    left = nodes.alive.copy()
    result = Unschedulable(len(nodes), rows=nodes.alive.copy())
    if narrowed:
        allowed = nodes.mask_of({nodes.row_of[name] for name in _intersection(narrowed) if name in nodes.row_of})
        outside = left & ~allowed
        if outside.any():
            names = " ".join(sorted(narrowed))
            result.reasons.append(Reason(f"node(s) didn't satisfy plugin(s) [{names}]", outside, False))
            result.plugins |= set(narrowed)
            left &= allowed
    for plugin, verdict in verdicts:
        rejected = left & ~verdict.passed
        if rejected.any():
            result.reasons += verdict.explain(rejected)
            result.plugins.add(plugin)
            left &= verdict.passed
    return result


def _intersection(narrowed: dict[str, Narrowed]) -> frozenset[str]:
    return frozenset.intersection(*(one.names for one in narrowed.values()))
