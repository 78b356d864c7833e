"""Nominations: pods that wait for victims to go, counted on their node so that nobody takes the room."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tiphys.scheduler.podinfo import PodInfo


class NominatedPods:
    """Implements `Nominator`."""

    def __init__(self) -> None:
        self._node_of: dict[str, str] = {}
        self._by_node: dict[str, dict[str, PodInfo]] = {}
        self._victims: dict[str, frozenset[str]] = {}
        self.version = 0  # grows with every change
        self.changed: set[str] = set()  # nodes, since who counts by node last looked
        self.on_change: Callable[[str], None] = lambda node: None  # what else has to know

    def __bool__(self) -> bool:
        return bool(self._node_of)

    def nominate(self, pod: PodInfo, node: str | None, victims: frozenset[str] = frozenset()) -> None:
        self.forget(pod.uid)
        if node:
            self._node_of[pod.uid] = node
            self._by_node.setdefault(node, {})[pod.uid] = pod
            if victims:
                self._victims[pod.uid] = victims
            self._note(node)

    def forget(self, uid: str) -> None:
        """The pod is placed or gone."""
        node = self._node_of.pop(uid, None)
        self._victims.pop(uid, None)
        if node is not None:
            pods = self._by_node[node]
            del pods[uid]
            if not pods:
                del self._by_node[node]
            self._note(node)

    def _note(self, node: str) -> None:
        self.version += 1
        self.changed.add(node)
        self.on_change(node)

    def nodes(self) -> Iterable[str]:
        """Those somebody is nominated to."""
        return self._by_node.keys()

    def has(self, node: str) -> bool:
        return node in self._by_node

    def node_of(self, uid: str) -> str | None:
        return self._node_of.get(uid)

    def nominated_on(self, node: str) -> Iterable[PodInfo]:
        return tuple(self._by_node.get(node, {}).values())

    def victims_of(self, uid: str) -> frozenset[str]:
        return self._victims.get(uid, frozenset())

    def rivals_on(self, node: str, pod: PodInfo) -> list[PodInfo]:
        """The pods nominated to a node at least as important as `pod`, which it must leave room for."""
        pods = self._by_node.get(node)
        if not pods:
            return []
        return [other for other in pods.values() if other.priority >= pod.priority and other.uid != pod.uid]
