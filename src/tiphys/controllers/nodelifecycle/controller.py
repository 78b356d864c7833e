"""Marks nodes that stop sending heartbeats, and taints nodes by their conditions.

Two loops. Every five seconds all heartbeats are looked at: a node silent for the grace period gets
Unknown conditions, and NoExecute taints are put on at the rate of its zone. Besides, each change of
a node brings its NoSchedule taints in line at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from tiphys.api.coordination.v1 import Lease
from tiphys.api.core.v1 import Node, ObjectReference, Pod, Taint
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import DONE, NORMAL, WARNING, ApiConnectionError, Controller, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.taints import same, with_taints
from tiphys.controllers.nodelifecycle import health
from tiphys.controllers.nodelifecycle.zones import Limiter, rate_of, state_of, zone_of
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

LEASES = "kube-node-lease"
BY_NODE = "node"


class NodeLifecycleController(Controller[ObjectName]):
    """The controller `node-lifecycle-controller`."""

    name = "node_lifecycle_controller"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._options = context.options
        self._recorder = context.recorder("node-controller")
        self._nodes = context.informers.of(Node)
        self._leases = context.informers.of(Lease, namespace=LEASES)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._nodes, self._leases, self._pods))
        self._pods.add_index(BY_NODE, lambda pod: (pod.spec.node_name,))
        self._heard: dict[str, health.Heard] = {}
        self._limits: dict[str, Limiter] = {}
        self._known: set[str] = set()
        enqueue(self.queue, self._nodes)

    def start(self, tasks: Supervised) -> None:
        tasks.spawn(self._monitor, name="node monitor", restart=True)

    async def sync(self, key: ObjectName) -> Result:
        """Bring the NoSchedule taints of one node in line with its conditions."""
        node = self._nodes.lister.get(key)
        if node is not None:
            await self._taint(node, health.wanted_no_schedule(node), health.stale_no_schedule(node))
        return DONE

    async def _monitor(self) -> None:
        while True:
            await self._look()
            await self.clock.sleep(self._options.node_monitor_period.total_seconds())

    async def _look(self) -> None:
        nodes = self._nodes.lister.list()
        self._note_comings_and_goings(nodes)
        looked = [await self._check(node) for node in nodes]
        zones: dict[str, list[Node]] = {}
        for node in looked:
            zones.setdefault(zone_of(node), []).append(node)
        states = {zone: state_of(members, self._options) for zone, members in zones.items()}
        for zone, members in zones.items():
            limit = self._limits.setdefault(zone, Limiter(at=self.clock.monotonic()))
            limit.rate = rate_of(states[zone], len(members), states, self._options)
            for node in members:
                await self._evict(node, limit)

    def _note_comings_and_goings(self, nodes: Sequence[Node]) -> None:
        current = {node.metadata.name for node in nodes}
        for name in current - self._known:
            self._event(name, NORMAL, "RegisteredNode", f"Node {name} event: Registered Node {name} in Controller")
        for name in self._known - current:
            self._event(name, NORMAL, "RemovingNode", f"Node {name} event: Removing Node {name} from Controller")
            self._heard.pop(name, None)
        self._known = current

    async def _check(self, node: Node) -> Node:
        """Judge one node's heartbeat; returns the node as it is afterwards."""
        name = node.metadata.name
        now = self.clock.monotonic()
        lease = self._leases.lister.get(ObjectName(LEASES, name))
        heard = self._heard[name] = health.hear(node, lease, self._heard.get(name), now)
        allowed = health.grace(node, self._options.node_monitor_grace_period, self._options.node_startup_grace_period)
        try:
            if now - heard.at > allowed.total_seconds():
                marked = health.silent(node, self.clock.now())
                if marked.status != node.status:
                    was_ready = health.is_ready(node)
                    node = await self._client.update_status(marked)
                    if was_ready:
                        # What a kubelet says of itself it reports itself.
                        self._event(name, NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
            if health.condition(node, "Ready") is not None:
                await self._mark_pods(node)
        except (StatusError, ApiConnectionError) as error:
            log.warning("node %s: %s", name, error)
        return node

    async def _mark_pods(self, node: Node) -> None:
        """Pods of a node that is not ready are not ready: Services leave them out at once."""
        if health.is_ready(node):
            return
        for pod in self._pods.lister.by_index(BY_NODE, node.metadata.name):
            await self._mark_pod(pod)

    async def _mark_pod(self, pod: Pod) -> None:
        ready = next((found for found in pod.status.conditions if found.type == "Ready"), None)
        if ready is None or ready.status != "True":
            return
        moment = self.clock.now().replace(microsecond=0)
        unready = replace(ready, status="False", last_transition_time=moment)
        conditions = tuple(unready if found is ready else found for found in pod.status.conditions)
        with suppress(NotFoundError, ConflictError):
            await self._client.update_status(replace(pod, status=replace(pod.status, conditions=conditions)))
            self._recorder.event(pod, WARNING, "NodeNotReady", "Node is not ready")

    async def _evict(self, node: Node, limit: Limiter) -> None:
        """Put the right NoExecute taint on a node, when its zone allows one more; take a wrong one off at once."""
        wanted = health.wanted_no_execute(node)
        stale = health.stale_no_execute(node)
        present = wanted is None or any(same(taint, wanted) for taint in node.spec.taints)
        # Swapping one taint for the other evicts nobody anew, so it needs no permission.
        allowed = present or bool(stale) or limit.take(self.clock.monotonic())
        add = [wanted] if wanted is not None and not present and allowed else []
        if add or stale:
            try:
                await self._taint(node, add, stale)
            except (StatusError, ApiConnectionError) as error:
                log.warning("node %s: %s", node.metadata.name, error)

    async def _taint(self, node: Node, add: Sequence[Taint], remove: Sequence[Taint]) -> None:
        taints = with_taints(node, add, remove, self.clock.now())
        if taints != node.spec.taints:
            with suppress(NotFoundError):
                await self._client.update(replace(node, spec=replace(node.spec, taints=taints)))

    def _event(self, node: str, type_: str, reason: str, message: str) -> None:
        # Events about nodes carry the name as uid, as kubelets' do, so that they are found together.
        reference = ObjectReference(kind="Node", api_version="v1", name=node, uid=node)
        self._recorder.event(reference, type_, reason, message)
