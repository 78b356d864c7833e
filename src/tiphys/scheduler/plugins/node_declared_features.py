"""NodeDeclaredFeatures: a pod that needs a feature under way goes to nodes that declare it.

Of the features nodes declare in v1.36 a new pod may need one.
https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from tiphys.api.core.v1 import Node
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Skip, Verdict
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo

RESTART_ALL: Final = "RestartAllContainersOnContainerExits"
REASON: Final = "node declared features check failed - unsatisfied requirements: {}"


def needed(pod: PodInfo) -> tuple[str, ...]:
    """The features, by name."""
    spec = pod.pod.spec
    rules = (rule for container in (*spec.containers, *spec.init_containers) for rule in container.restart_policy_rules)
    return (RESTART_ALL,) if any(rule.action == "RestartAllContainers" for rule in rules) else ()


def declares(pod: PodInfo, _old: object, new: object) -> bool:
    return not isinstance(new, Node) or set(needed(pod)) <= set(new.status.declared_features)


class NodeDeclaredFeatures:
    name: ClassVar[str] = "NodeDeclaredFeatures"
    requeue_on: ClassVar[Requeue] = {
        Event.NODE_ADD: declares,
        Event.NODE_DECLARED_FEATURE: declares,
        Event.TARGET_POD_UPDATE: always,
    }

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Skip | None:
        return None if needed(pod) else SKIP

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        features = needed(pod)
        passed = np.zeros(nodes.width, dtype=np.bool_)
        for index in np.flatnonzero(nodes.alive).tolist():
            passed[index] = set(features) <= set(nodes.node_in_view(index).status.declared_features)
        return Verdict(passed, REASON.format(", ".join(features)), resolvable=False)
