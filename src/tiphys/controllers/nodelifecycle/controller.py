"""Marks nodes that stop sending heartbeats, and taints nodes by their conditions.

Two loops. Every five seconds all heartbeats are looked at: a node silent for the grace period gets
Unknown conditions, and NoExecute taints are put on at the rate of its zone. Besides, each change of
a node brings its NoSchedule taints in line at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from tiphys.api.coordination.v1 import Lease
from tiphys.api.core.v1 import Node, ObjectReference, Pod, Taint
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import DONE, NORMAL, WARNING, ApiConnectionError, Controller, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.taints import with_taints
from tiphys.controllers.nodelifecycle import health
from tiphys.controllers.nodelifecycle.zones import Limiter, rate_of, state_of, zone_of
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

LEASES = "kube-node-lease"
BY_NODE = "node"
WRITERS = 16  # nodes that are marked at the same time


class NodeLifecycleController(Controller[ObjectName]):
    """The controller `node-lifecycle-controller`."""

    name = "node_lifecycle_controller"
    workers = 16

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._options = context.options
        self._recorder = context.recorder("node-controller")
        self._nodes = context.informers.of(Node)
        # All of them: the garbage collector follows leases too, and shares this watch.
        self._leases = context.informers.of(Lease)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._nodes, self._leases, self._pods))
        self._pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name,))
        self._heard: dict[str, health.Heard] = {}
        self._judged: dict[str, health.Judged] = {}
        self._limits: dict[str, Limiter] = {}
        self._known: set[str] = set()
        enqueue(self.queue, self._nodes)

    def start(self, tasks: Supervised) -> None:
        tasks.spawn(self._monitor, name="node monitor", restart=True)

    async def sync(self, key: ObjectName) -> Result:
        """Bring the NoSchedule taints of one node in line with its conditions, and its pods' readiness."""
        node = self._nodes.lister.get(key)
        if node is not None:
            await self._taint(node, health.wanted_no_schedule(node), health.stale_no_schedule(node))
            if self._judge(node).gone:
                await self._mark_pods(node)
        return DONE

    async def _monitor(self) -> None:
        while True:
            await self._look()
            await self.clock.sleep(self._options.node_monitor_period.total_seconds())

    async def _look(self) -> None:
        nodes = self._nodes.lister.list()
        self._note_comings_and_goings(nodes)
        judged = {node.metadata.name: self._judge(node) for node in nodes}
        silent = [one for one in judged.values() if self._is_silent(one)]
        # When a whole zone is gone there is much to write; of the healthy nodes nothing.
        for marked in await self._at_once(silent, self._mark_silent):
            judged[marked.metadata.name] = self._judge(marked)
        for name, one in judged.items():
            # Of a zone's loss there are tens of thousands of pods: workers mark them, this loop goes on looking.
            if one.gone and any(_is_ready(pod) for pod in self._pods.lister.by_index(BY_NODE, name)):
                self.queue.add(ObjectName("", name))
        zones: dict[str, list[health.Judged]] = {}
        for one in judged.values():
            zones.setdefault(zone_of(one.node), []).append(one)
        states = {zone: state_of([one.ready for one in members], self._options) for zone, members in zones.items()}
        for zone, members in zones.items():
            limit = self._limits.setdefault(zone, Limiter(at=self.clock.monotonic()))
            limit.rate = rate_of(states[zone], len(members), states, self._options)
            for one in members:
                if one.add is not None or one.stale:
                    await self._evict(one, limit)

    def _judge(self, node: Node) -> health.Judged:
        known = self._judged.get(node.metadata.name)
        if known is None or known.node is not node:
            known = self._judged[node.metadata.name] = health.judge(node)
        return known

    async def _at_once(
        self, judged: Sequence[health.Judged], work: Callable[[health.Judged], Awaitable[Node]]
    ) -> list[Node]:
        """Do something for several nodes at a time; the nodes as they are then."""
        gate = asyncio.Semaphore(WRITERS)

        async def one(found: health.Judged) -> Node:
            async with gate:
                try:
                    return await work(found)
                except (StatusError, ApiConnectionError) as error:
                    log.warning("node %s: %s", found.node.metadata.name, error)
                    return found.node

        return await asyncio.gather(*(one(found) for found in judged))

    def _note_comings_and_goings(self, nodes: Sequence[Node]) -> None:
        current = {node.metadata.name for node in nodes}
        for name in current - self._known:
            self._event(name, NORMAL, "RegisteredNode", f"Node {name} event: Registered Node {name} in Controller")
        for name in self._known - current:
            self._event(name, NORMAL, "RemovingNode", f"Node {name} event: Removing Node {name} from Controller")
            self._heard.pop(name, None)
            self._judged.pop(name, None)
        self._known = current

    def _is_silent(self, judged: health.Judged) -> bool:
        """Whether nothing was heard of a node for too long."""
        name = judged.node.metadata.name
        now = self.clock.monotonic()
        lease = self._leases.lister.get(ObjectName(LEASES, name))
        heard = self._heard[name] = health.hear(judged.node, lease, self._heard.get(name), now)
        options = self._options
        allowed = options.node_monitor_grace_period if judged.spoken else options.node_startup_grace_period
        return now - heard.at > allowed.total_seconds()

    async def _mark_silent(self, judged: health.Judged) -> Node:
        """Say of a silent node that its state is unknown; the node as it is afterwards."""
        node = judged.node
        marked = health.silent(node, self.clock.now())
        if marked.status == node.status:
            return node
        node = await self._client.update_status(marked)
        if judged.ready:
            # What a kubelet says of itself it reports itself.
            name = node.metadata.name
            self._event(name, NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        return node

    async def _mark_pods(self, node: Node) -> None:
        """Pods of a node that is not ready are not ready: Services leave them out at once."""
        for pod in self._pods.lister.by_index(BY_NODE, node.metadata.name):
            if _is_ready(pod):
                await self._mark_pod(pod)

    async def _mark_pod(self, pod: Pod) -> None:
        moment = self.clock.now().replace(microsecond=0)
        conditions = tuple(
            replace(found, status="False", last_transition_time=moment) if found.type == "Ready" else found
            for found in pod.status.conditions
        )
        with suppress(NotFoundError, ConflictError):
            await self._client.update_status(replace(pod, status=replace(pod.status, conditions=conditions)))
            self._recorder.event(pod, WARNING, "NodeNotReady", "Node is not ready")

    async def _evict(self, judged: health.Judged, limit: Limiter) -> None:
        """Put the right NoExecute taint on a node, when its zone allows one more; take a wrong one off at once."""
        # Swapping one taint for the other evicts nobody anew, so it needs no permission.
        allowed = judged.add is not None and (bool(judged.stale) or limit.take(self.clock.monotonic()))
        add = [judged.add] if judged.add is not None and allowed else []
        if add or judged.stale:
            try:
                await self._taint(judged.node, add, judged.stale)
            except ConflictError:
                pass  # it has changed meanwhile, and is looked at again soon
            except (StatusError, ApiConnectionError) as error:
                log.warning("node %s: %s", judged.node.metadata.name, error)

    async def _taint(self, node: Node, add: Sequence[Taint], remove: Sequence[Taint]) -> None:
        taints = with_taints(node, add, remove, self.clock.now())
        if taints != node.spec.taints:
            with suppress(NotFoundError):
                await self._client.update(replace(node, spec=replace(node.spec, taints=taints)))

    def _event(self, node: str, type_: str, reason: str, message: str) -> None:
        # Events about nodes carry the name as uid, as kubelets' do, so that they are found together.
        reference = ObjectReference(kind="Node", api_version="v1", name=node, uid=node)
        self._recorder.event(reference, type_, reason, message)


def _is_ready(pod: Pod) -> bool:
    return any(found.type == "Ready" and found.status == "True" for found in pod.status.conditions)
