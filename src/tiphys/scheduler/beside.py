"""Room for nominated pods: where important ones wait for victims to go, a pod must also fit beside them.

The pod itself, when it is one of them, has its node before all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tiphys.scheduler.framework.diagnosis import Unschedulable
from tiphys.scheduler.framework.interface import Reason
from tiphys.scheduler.framework.runner import Framework
from tiphys.scheduler.nodetable import Mask, NodeTable
from tiphys.scheduler.nominator import NominatedPods
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.preemption import what_if
from tiphys.scheduler.remembered import Remembered


class Beside:
    """Narrows the nodes a pod fits on."""

    def __init__(self, nodes: NodeTable, nominated: NominatedPods) -> None:
        self._nodes = nodes
        self._nominated = nominated
        self._answers: Remembered[tuple[str, ...]] = Remembered(lambda texts: not texts)
        self._crowded: Mask = np.zeros(0, dtype=np.bool_)
        self._seen = -1, -1

    def promised(self, framework: Framework, pod: PodInfo, feasible: Mask) -> Mask | None:
        """The node room was made on, alone, if the pod fits there beside others for which it was; else None."""
        nodes, node = self._nodes, self._nominated.node_of(pod.uid) or ""
        row = nodes.row_of.get(node)
        if row is None or not feasible[row]:
            return None
        rivals = self._nominated.rivals_on(node, pod)
        if rivals and self._rejections(framework, pod, row, rivals):
            return None
        return nodes.mask_of({row})

    def narrow(self, framework: Framework, pod: PodInfo, feasible: Mask) -> Mask | Unschedulable:
        """The feasible rows that have room beside those nominated there, or why there is none."""
        nodes = self._nodes
        promised = feasible & self._crowded_rows()
        if not promised.any():
            return feasible
        own = self._nominated.node_of(pod.uid)
        left = feasible.copy()
        crowded: dict[str, set[int]] = {}
        local = framework.row_local(pod, nodes)
        known = self._answers.of((framework.scheduler_name, pod.fit_key, pod.priority)) if local is not None else None
        for row in np.flatnonzero(promised).tolist():
            node = nodes.name_of(row)
            rivals = self._nominated.rivals_on(node, pod)
            if not rivals:
                continue

            def ask(row: int = row, rivals: Sequence[PodInfo] = rivals) -> tuple[str, ...]:
                return self._rejections(framework, pod, row, rivals)

            # Rivals with rules about other pods make the pod look beyond the node.
            # And what others are told of its own node counts the pod itself.
            is_local = node != own and not any(rival.has_affinity_terms for rival in rivals)
            texts = known.get(nodes, row, ask) if known is not None and is_local else ask()
            for text in texts:
                crowded.setdefault(text, set()).add(row)
            left[row] = not texts
        if left.any():
            return left
        refused = framework.diagnose(pod, nodes)
        refused.reasons += [Reason(text, nodes.mask_of(rows)) for text, rows in crowded.items()]
        refused.plugins = {plugin.name for plugin in framework.plugins}
        return refused

    def _crowded_rows(self) -> Mask:
        """Rows somebody is nominated to."""
        nodes, seen = self._nodes, (self._nodes.version, self._nominated.version)
        if self._seen != seen or len(self._crowded) != nodes.width:
            if self._seen[0] != seen[0] or len(self._crowded) != nodes.width:
                names = self._nominated.nodes()
                self._nominated.changed.clear()
                self._crowded = nodes.mask_of({nodes.row_of[name] for name in names if name in nodes.row_of})
            for name in self._nominated.changed:
                if name in nodes.row_of:
                    self._crowded[nodes.row_of[name]] = self._nominated.has(name)
            self._nominated.changed.clear()
            self._seen = seen
        return self._crowded

    def _rejections(self, framework: Framework, pod: PodInfo, row: int, rivals: Sequence[PodInfo]) -> tuple[str, ...]:
        """Why the pod does not fit beside the rivals; empty when it does."""
        with what_if(self._nodes, row, (), rivals):
            return tuple(reason.text for reason in framework.rejections(pod, self._nodes, row))
