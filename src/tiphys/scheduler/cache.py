"""What the scheduler believes of the cluster: nodes, the pods on them, and pods it has just placed itself.

    assumed --(seen bound in the watch)--> added --(deleted)--> gone
       |
       +----(binding failed)-----------> forgotten

A pod is assumed on its node the moment it is decided, so that the next decision counts it; the binding is
written meanwhile. Nodes and pods may arrive in any order: a pod whose node is unknown waits for it.
"""

from __future__ import annotations

from tiphys.api.core.v1 import Node
from tiphys.scheduler.nodetable import NodeTable
from tiphys.scheduler.podinfo import PodInfo


class Cache:
    """Owns the node table."""

    def __init__(self, nodes: NodeTable) -> None:
        self.nodes = nodes
        self._placed: dict[str, tuple[PodInfo, str]] = {}  # uid -> (pod, node)
        self._assumed: set[str] = set()
        self._homeless: dict[str, dict[str, PodInfo]] = {}  # node -> uid -> pod

    def assume(self, pod: PodInfo, node: str) -> None:
        """Count a pod on a node before anyone else knows."""
        self._place(pod, node)
        self._assumed.add(pod.uid)

    def forget(self, pod: PodInfo) -> None:
        """The binding of an assumed pod failed. Nothing happens when the pod has been seen bound."""
        if pod.uid in self._assumed:
            self._assumed.discard(pod.uid)
            self._take(pod.uid)

    def is_assumed(self, uid: str) -> bool:
        return uid in self._assumed

    def placed(self, uid: str) -> PodInfo | None:
        """The pod as it is counted now."""
        entry = self._placed.get(uid)
        return None if entry is None else entry[0]

    def set_pod(self, pod: PodInfo, node: str) -> None:
        """A pod was seen on a node: new, changed, or confirming what was assumed."""
        self._assumed.discard(pod.uid)
        entry = self._placed.get(pod.uid)
        if entry is not None:
            old, where = entry
            if where == node and _counts_the_same(old, pod):
                # Keep the object that was counted: it is what must be taken away later.
                began, old.pod = old.pod.status.start_time, pod.pod
                row = self.nodes.row_of.get(node)
                if row is not None and began != pod.pod.status.start_time:
                    self.nodes.touch(row)  # preemption looks at it
                return
            self._take(pod.uid)
        self._place(pod, node)

    def remove_pod(self, uid: str) -> PodInfo | None:
        """A pod is gone; what was known of it."""
        self._assumed.discard(uid)
        return self._take(uid)

    def set_node(self, node: Node) -> None:
        row = self.nodes.set_node(node)
        for pod in self._homeless.pop(node.metadata.name, {}).values():
            self.nodes.add_pod(pod, row)

    def remove_node(self, name: str) -> None:
        """The node is gone; its pods stay known until they are deleted themselves."""
        if name in self.nodes.row_of:
            pods = self.nodes.remove_node(name)
            if pods:
                self._homeless[name] = {pod.uid: pod for pod in pods}

    def touch(self, node: str) -> None:
        """Something about a node changed that the table does not hold."""
        row = self.nodes.row_of.get(node)
        if row is not None:
            self.nodes.touch(row)

    def pod_count(self) -> int:
        return len(self._placed)

    def assumed_count(self) -> int:
        return len(self._assumed)

    def _place(self, pod: PodInfo, node: str) -> None:
        self._placed[pod.uid] = (pod, node)
        row = self.nodes.row_of.get(node)
        if row is None:
            self._homeless.setdefault(node, {})[pod.uid] = pod
        else:
            self.nodes.add_pod(pod, row)

    def _take(self, uid: str) -> PodInfo | None:
        entry = self._placed.pop(uid, None)
        if entry is None:
            return None
        pod, node = entry
        waiting = self._homeless.get(node)
        if waiting is not None and waiting.pop(uid, None) is not None:
            if not waiting:
                del self._homeless[node]
        else:
            self.nodes.remove_pod(pod, self.nodes.row_of[node])
        return pod


def _counts_the_same(old: PodInfo, new: PodInfo) -> bool:
    """Whether replacing one by the other changes nothing in the table; most updates are of status only."""
    return (
        old.class_key == new.class_key
        and old.requests == new.requests
        and old.ports == new.ports
        and old.priority == new.priority
    )
