"""Deletes pods that nobody else will: too many finished ones, those of nodes that are gone, and those
that were deleted before any node had them.

A pod of a missing node is given 40 s, and the server is asked for the node, before it goes: a new
node's pods may be known before the node. https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from tiphys.api.core.v1 import Node, Pod
from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Controller, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.disrupted import mark_disrupted
from tiphys.controllers.common.pods import is_finished
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

PERIOD: Final = timedelta(seconds=20)
QUARANTINE: Final = timedelta(seconds=40)
OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
ROUND: Final = "round"
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def surplus(pods: Iterable[Pod], threshold: int) -> list[Pod]:
    """The oldest finished pods beyond `threshold`; evicted ones first. A threshold of zero means no limit."""
    finished = [pod for pod in pods if is_finished(pod)]
    if threshold <= 0 or len(finished) <= threshold:
        return []
    finished.sort(
        key=lambda pod: (
            not (pod.status.phase == "Failed" and pod.status.reason == "Evicted"),
            pod.metadata.creation_timestamp or _EPOCH,
            pod.metadata.name,
        )
    )
    return finished[: len(finished) - threshold]


def never_started(pods: Iterable[Pod]) -> list[Pod]:
    """Pods being deleted that no node has."""
    return [pod for pod in pods if pod.metadata.deletion_timestamp is not None and not pod.spec.node_name]


def out_of_service(pods: Iterable[Pod], nodes: Iterable[Node]) -> list[Pod]:
    """Pods being deleted whose node is not ready and was taken out of service by its administrator."""
    dead = {
        node.metadata.name
        for node in nodes
        if any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)
        and not any(found.type == "Ready" and found.status == "True" for found in node.status.conditions)
    }
    return [pod for pod in pods if pod.metadata.deletion_timestamp is not None and pod.spec.node_name in dead]


class PodGCController(Controller[str]):
    """The controller `pod-garbage-collector-controller`."""

    name = "pod_garbage_collector"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._threshold = context.options.terminated_pod_gc_threshold
        self._pods = context.informers.of(Pod)
        self._nodes = context.informers.of(Node)
        super().__init__(context.clock, (self._pods, self._nodes))
        self._missing_since: dict[str, datetime] = {}
        self.queue.add(ROUND)

    async def sync(self, key: str) -> Result:
        """Look at all pods once."""
        pods = self._pods.lister.list()
        for pod in surplus(pods, self._threshold):
            await self._delete(pod, None)
        for pod in never_started(pods):
            await self._delete(pod, None)
        for pod in out_of_service(pods, self._nodes.lister.list()):
            await self._delete(pod, f"PodGC: node {pod.spec.node_name} is out of service")
        gone = await self._gone_nodes(pods)
        for pod in pods:
            if pod.spec.node_name in gone:
                await self._delete(pod, "PodGC: node no longer exists")
        return RequeueAfter(PERIOD)

    async def _gone_nodes(self, pods: Iterable[Pod]) -> set[str]:
        missing = {
            pod.spec.node_name
            for pod in pods
            if pod.spec.node_name and self._nodes.lister.get(ObjectName("", pod.spec.node_name)) is None
        }
        now = self.clock.now()
        self._missing_since = {name: self._missing_since.get(name, now) for name in missing}
        gone = set()
        for name, since in self._missing_since.items():
            if now - since >= QUARANTINE:
                try:
                    await self._client.get(Node, ObjectName("", name))
                except NotFoundError:
                    gone.add(name)
        return gone

    async def _delete(self, pod: Pod, disruption: str | None) -> None:
        """Delete without grace, after marking a pod that had not ended as failed."""
        try:
            with suppress(NotFoundError):
                if disruption is not None and not is_finished(pod):
                    reason = "DeletionByPodGC"
                    await mark_disrupted(self._client, pod, reason, disruption, self.clock.now(), phase="Failed")
                await self._client.delete(Pod, key_of(pod), grace_period_seconds=0)
        except (StatusError, ApiConnectionError) as error:
            # The next round comes anyway; one pod must not keep the others.
            log.warning("%s: %s: %s", self.name, key_of(pod), error)
