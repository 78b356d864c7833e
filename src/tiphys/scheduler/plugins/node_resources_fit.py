"""NodeResourcesFit: requests against what is left of a node, and scores by how full it would be.

Strategies: LeastAllocated spreads, MostAllocated packs, RequestedToCapacityRatio follows a shape of
(utilization percent, score 0..10) points. Source: "Resource Bin Packing", NodeResourcesFitArgs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

import numpy as np

from tiphys.api.core.v1 import Node
from tiphys.scheduler.dra.extended import ExtendedResources
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import MAX_SCORE, CycleState, Reason, Verdict
from tiphys.scheduler.nodetable import Mask, NodeTable, Numbers
from tiphys.scheduler.podinfo import CPU, MEMORY, PODS, PodInfo, amounts

PODS_ROW: Final = 3  # of the table's resources
TOO_MANY_PODS: Final = "Too many pods"
MAX_SHAPE_SCORE: Final = 10


class ResourceWeight(NamedTuple):
    resource: str
    weight: int = 1


class ShapePoint(NamedTuple):
    utilization: int  # percent
    score: int  # 0..10


DEFAULT_RESOURCES: Final = (ResourceWeight(CPU), ResourceWeight(MEMORY))


def least_allocated(used: Numbers, allocatable: Numbers) -> Numbers:
    """100 on an empty node, 0 on a full one."""
    scores: Numbers = np.floor((allocatable - used) * MAX_SCORE / allocatable)
    return np.maximum(scores, 0.0, out=scores)


def most_allocated(used: Numbers, allocatable: Numbers) -> Numbers:
    """0 on an empty node, 100 on a full one. Small requests may add up to more than there is: full."""
    scores: Numbers = np.floor(np.minimum(used, allocatable) * MAX_SCORE / allocatable)
    return scores


def by_shape(shape: Sequence[ShapePoint]) -> Callable[[Numbers, Numbers], Numbers]:
    """A strategy that draws straight lines between points of utilization."""
    utilizations = [float(point.utilization) for point in shape]
    scores = [float(point.score * MAX_SCORE / MAX_SHAPE_SCORE) for point in shape]

    def requested_to_capacity_ratio(used: Numbers, allocatable: Numbers) -> Numbers:
        utilization = np.where(used > allocatable, MAX_SCORE, np.floor(used * MAX_SCORE / allocatable))
        interpolated: Numbers = np.trunc(np.interp(utilization, utilizations, scores))
        return interpolated

    return requested_to_capacity_ratio


def strategy(name: str, shape: Sequence[ShapePoint] = ()) -> Callable[[Numbers, Numbers], Numbers]:
    """The scoring function of a ScoringStrategy type. Raises ValueError for an unknown one."""
    match name:
        case "LeastAllocated":
            return least_allocated
        case "MostAllocated":
            return most_allocated
        case "RequestedToCapacityRatio":
            return by_shape(shape)
    raise ValueError(f"unknown scoring strategy {name}")


def fits_now(pod: PodInfo, _old: object, new: object) -> bool:
    """A node that appears or grows helps when it could hold the pod while empty."""
    if not isinstance(new, Node):
        return True
    there = amounts(new.status.allocatable)
    return there.get(PODS, 0.0) >= 1 and all(
        # Devices may serve what the node does not count.
        there.get(name, math.inf if "/" in name else 0.0) >= amount
        for name, amount in pod.requests.items()
    )


def frees_resources(pod: PodInfo, old: object, new: object) -> bool:
    """A pod that goes or shrinks helps when it gives back something the waiting pod asks for."""
    if not isinstance(old, PodInfo):
        return True
    after = new.requests if isinstance(new, PodInfo) else {}
    return new is None or any(old.requests.get(name, 0.0) > after.get(name, 0.0) for name in pod.requests)


def asks_less(pod: PodInfo, _old: object, new: object) -> bool:
    return isinstance(new, PodInfo) and new.uid == pod.uid and new.requests != pod.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResourcesFit:
    name: ClassVar[str] = "NodeResourcesFit"
    row_local: ClassVar[bool] = True
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: fits_now,
        Event.NODE_ALLOCATABLE: fits_now,
        Event.POD_DELETE: frees_resources,
        Event.POD_UPDATE: frees_resources,
        Event.TARGET_POD_UPDATE: asks_less,
        Event.DEVICE_CLASS: always,
    }
    scorer: Callable[[Numbers, Numbers], Numbers] = least_allocated
    resources: tuple[ResourceWeight, ...] = DEFAULT_RESOURCES
    ignored_resources: frozenset[str] = frozenset()
    ignored_groups: frozenset[str] = frozenset()  # prefixes of extended resources, without the slash
    served: ExtendedResources | None = None  # where a node does not count such a resource, DynamicResources decides

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        version = self.served.version if self.served is not None else 0
        passed = nodes.follow(("fits", id(self), version, pod.request_key), lambda: self._fits(pod, nodes))

        def explain(rejected: Mask) -> list[Reason]:
            full = rejected & (nodes.requested[PODS_ROW] >= nodes.allocatable[PODS_ROW])
            reasons = [Reason(TOO_MANY_PODS, full)]
            for name in filter(self._counts, pod.requests):
                number, amount = nodes.resource_id(name), pod.requests[name]
                short = rejected & (nodes.allocatable[number] - nodes.requested[number] < amount)
                if self._is_served(name):
                    short &= nodes.allocatable[number] > 0
                # Where even an empty node is too small evicting does not help.
                reasons.append(Reason(f"Insufficient {name}", short, nodes.allocatable[number] >= amount))
            return [reason for reason in reasons if reason.rows.any()]

        return Verdict(passed, explain)

    def _fits(self, pod: PodInfo, nodes: NodeTable) -> Mask:
        passed: Mask = nodes.requested[PODS_ROW] < nodes.allocatable[PODS_ROW]
        for name in filter(self._counts, pod.requests):
            number = nodes.resource_id(name)
            enough = nodes.allocatable[number] - nodes.requested[number] >= pod.requests[name]
            passed &= enough | (nodes.allocatable[number] <= 0) if self._is_served(name) else enough
        return passed

    def _is_served(self, name: str) -> bool:
        """Whether devices serve the resource where nodes do not count it."""
        return self.served is not None and self.served.class_of(name) is not None

    def score(self, state: CycleState, pod: PodInfo, nodes: NodeTable, feasible: Mask) -> Numbers | None:
        """How full the node would be, by the strategy: the weighted mean over the resources."""
        scored = [one for one in self.resources if one.resource in (CPU, MEMORY) or one.resource in pod.requests]
        if not scored:
            return None
        return nodes.follow(("fit score", id(self), pod.request_key), lambda: self._score(pod, nodes, scored))

    def _score(self, pod: PodInfo, nodes: NodeTable, scored: Sequence[ResourceWeight]) -> Numbers:
        total: Numbers | float = 0.0
        weights: Numbers | float = 0.0
        for name, weight in scored:
            number = nodes.resource_id(name)
            used = nodes.nonzero[number] if number < 2 else nodes.requested[number]
            used = used + pod.scored_requests.get(name, 0.0)
            allocatable = nodes.allocatable[number]
            if nodes.everywhere(number):
                total = total + self.scorer(used, allocatable) * weight
                weights = weights + float(weight)
            else:
                # A node without the resource is scored by the others alone.
                has = allocatable > 0
                total = total + np.where(has, self.scorer(used, np.where(has, allocatable, 1.0)) * weight, 0.0)
                weights = weights + has * float(weight)
        result: Numbers = np.floor(total / np.maximum(weights, 1.0))
        return result

    def _counts(self, name: str) -> bool:
        return name not in self.ignored_resources and name.partition("/")[0] not in self.ignored_groups
