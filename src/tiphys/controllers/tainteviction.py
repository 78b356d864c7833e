"""Evicts pods from nodes with NoExecute taints, each when its toleration ends.

Level-driven: the moment follows from the taint's own time and the pod's tolerations, so a restart
changes nothing. https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.core.v1 import Node, Pod, Taint
from tiphys.client import DONE, NORMAL, Controller, Preconditions, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.disrupted import mark_disrupted
from tiphys.controllers.common.pods import is_finished
from tiphys.controllers.common.taints import no_execute, tolerates
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

BY_NODE: Final = "node"
REASON: Final = "DeletionByTaintManager"
MESSAGE: Final = "Taint manager: deleting due to NoExecute taint"


def time_left(pod: Pod, taints: Sequence[Taint], now: datetime) -> timedelta | None:
    """Time until the pod must go (zero or less: now); None means never."""
    left: timedelta | None = None
    for taint in taints:
        matching = [toleration for toleration in pod.spec.tolerations if tolerates(toleration, taint)]
        if not matching:
            return timedelta(0)
        limits = [found.toleration_seconds for found in matching if found.toleration_seconds is not None]
        if limits:
            until = (taint.time_added or now) + timedelta(seconds=max(0, min(limits))) - now
            left = until if left is None else min(left, until)
    return left


class TaintEvictionController(Controller[ObjectName]):
    """The controller `taint-eviction-controller`; its keys are pods."""

    name = "taint_eviction_controller"
    workers = 8

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("taint-eviction-controller")
        self._pods = context.informers.of(Pod)
        self._nodes = context.informers.of(Node)
        super().__init__(context.clock, (self._pods, self._nodes))
        self._pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name,))
        self._waiting: set[ObjectName] = set()
        self._pods.add_handler(self._pod_changed, lambda _, new: self._pod_changed(new), self._pod_changed)
        self._nodes.add_handler(self._node_changed, self._node_updated)

    def _pod_changed(self, pod: Pod) -> None:
        """Of all the pods' changes only those on tainted nodes matter, and of pods that were to be evicted."""
        key = key_of(pod)
        node = self._nodes.lister.get(ObjectName("", pod.spec.node_name)) if pod.spec.node_name else None
        if key in self._waiting or (node is not None and no_execute(node)):
            self.queue.add(key)

    def _node_changed(self, node: Node) -> None:
        if no_execute(node):
            self._queue_pods(node)

    def _node_updated(self, old: Node, new: Node) -> None:
        if no_execute(old) != no_execute(new):
            self._queue_pods(new)

    def _queue_pods(self, node: Node) -> None:
        for pod in self._pods.lister.by_index(BY_NODE, node.metadata.name):
            self.queue.add(key_of(pod))

    async def sync(self, key: ObjectName) -> Result:
        """Evict one pod when its time has come."""
        pod = self._pods.lister.get(key)
        if pod is None or pod.metadata.deletion_timestamp is not None:
            self._waiting.discard(key)
            return DONE
        node = self._nodes.lister.get(ObjectName("", pod.spec.node_name)) if pod.spec.node_name else None
        left = time_left(pod, no_execute(node), self.clock.now()) if node is not None else None
        if left is None:
            if key in self._waiting:
                self._waiting.discard(key)
                self._recorder.event(pod, NORMAL, "TaintManagerEviction", f"Cancelling deletion of Pod {key}")
            return DONE
        if left > timedelta(0):
            self._waiting.add(key)
            return RequeueAfter(left)
        self._recorder.event(pod, NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {key}")
        with suppress(NotFoundError):
            if not is_finished(pod):
                await mark_disrupted(self._client, pod, REASON, MESSAGE, self.clock.now())
            await self._client.delete(Pod, key, only_if=Preconditions(uid=pod.metadata.uid))
        self._waiting.discard(key)
        return DONE
