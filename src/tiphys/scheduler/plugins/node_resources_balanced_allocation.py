"""NodeResourcesBalancedAllocation: prefers nodes whose resources would be used in equal parts.

    score = 100 * (1 - standard deviation of the used fractions)

For two resources the deviation is half their difference. A pod that asks for none of them is not scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tiphys.scheduler.framework.events import Requeue
from tiphys.scheduler.framework.interface import MAX_SCORE, SKIP, CycleState, Skip
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.plugins.node_resources_fit import DEFAULT_RESOURCES, ResourceWeight
from tiphys.scheduler.podinfo import PodInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResourcesBalancedAllocation:
    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    requeue_on: ClassVar[Requeue] = {}
    resources: tuple[ResourceWeight, ...] = DEFAULT_RESOURCES

    def pre_score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Skip | None:
        return None if any(name in pod.requests for name, _ in self.resources) else SKIP

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        return nodes.follow(("balance", id(self), pod.request_key), lambda: self._score(pod, nodes))

    def _score(self, pod: PodInfo, nodes: NodeTable) -> Numbers:
        counted = [(name, nodes.resource_id(name)) for name, _ in self.resources]
        counted = [(name, number) for name, number in counted if number < 2 or name in pod.requests]
        if len(counted) == 2 and all(nodes.everywhere(number) for _, number in counted):
            first, second = (self._fraction(pod, nodes, name, number) for name, number in counted)
            deviation: Numbers = np.abs(first - second) * 0.5
        else:
            deviation = self._deviation(pod, nodes, counted)
        scores: Numbers = np.floor((1.0 - deviation) * MAX_SCORE)
        return scores

    @staticmethod
    def _fraction(pod: PodInfo, nodes: NodeTable, name: str, number: int) -> Numbers:
        """Of the node that would be used; of a resource it does not have, none."""
        used = nodes.requested[number] + pod.requests.get(name, 0.0)
        allocatable = nodes.allocatable[number]
        fraction: Numbers = used / (allocatable if nodes.everywhere(number) else np.maximum(allocatable, 1.0))
        return np.minimum(fraction, 1.0, out=fraction)

    def _deviation(self, pod: PodInfo, nodes: NodeTable, counted: list[tuple[str, int]]) -> Numbers:
        """The general form: each node over the resources it has."""
        present = np.array([nodes.allocatable[number] > 0 for _, number in counted])
        fractions = np.array([self._fraction(pod, nodes, name, number) for name, number in counted]) * present
        count = np.maximum(present.sum(axis=0), 1)
        mean = fractions.sum(axis=0) / count
        variance = np.where(present, (fractions - mean) ** 2, 0.0).sum(axis=0) / count
        deviation: Numbers = np.sqrt(variance)
        return deviation
