"""Simulated nodes: made in the number asked for, alive by their leases, Ready unless they are lost.

https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final

from tiphys.api.coordination.v1 import Lease, LeaseSpec
from tiphys.api.core.v1 import (
    Node,
    NodeAddress,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    NodeSystemInfo,
    Taint,
)
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import DONE, ApiConnectionError, Client, Controller, Informers, PatchType, Result, enqueue
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_micro_time, format_time
from tiphys.simulation import annotations as names

log = get_logger(__name__)

NAME: Final = "simulated-{:05d}"
ORDINAL: Final = "simulation.tiphys.dev/ordinal"  # label of the nodes made here
MAX_NODES: Final = 16384  # ranges of /24 in 100.64.0.0/10
LEASES: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40
RENEW_EVERY: Final = 10.0  # seconds, as kubelets do
# With very many nodes heartbeats would be most of what the API server does; this is still well within the lease.
RENEW_MANY_EVERY: Final = 25.0
MANY: Final = 500
WRITES_AT_ONCE: Final = 32
FOR_EVER: Final = frozenset({400, 403, 405, 413, 422})  # answers that trying again does not change
RETRY_AFTER: Final = 1.0  # seconds
LATE: Final = 3.0  # seconds
TICK: Final = 0.5  # seconds; the longest the heartbeats sleep, as nodes may come


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTemplate:
    """What the nodes made here are like. `tainted`: only pods that tolerate it come to them."""

    cpu: str = "32"
    memory: str = "256Gi"
    pods: int = 110
    zones: int = 1
    tainted: bool = False
    version: str = "v1.36.2"


def is_simulated(node: Node) -> bool:
    """Whether a simulation stands behind this node."""
    return node.metadata.labels.get(names.SIMULATED) == "true"


def is_lost(node: Node) -> bool:
    """Whether its user took the machine away."""
    return node.metadata.annotations.get(names.LOST) == "true"


def make_node(ordinal: int, template: NodeTemplate, now: datetime) -> Node:
    """The Node object of the `ordinal`th node, counted from 1."""
    name = NAME.format(ordinal)
    high, low = divmod(ordinal - 1, 256)
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{(ordinal - 1) % template.zones + 1}",
        names.SIMULATED: "true",
        ORDINAL: str(ordinal),
    }
    taints = (Taint(key=names.SIMULATED, value="true", effect="NoSchedule"),) if template.tainted else ()
    resources: Mapping[str, str] = {
        "cpu": template.cpu,
        "memory": template.memory,
        "ephemeral-storage": "1Ti",
        "pods": str(template.pods),
    }
    cidr = f"100.{64 + high}.{low}.0/24"
    addresses = (
        NodeAddress(type="InternalIP", address=f"198.{18 + high // 256}.{high % 256}.{low}"),
        NodeAddress(type="Hostname", address=name),
    )
    return Node(
        metadata=ObjectMeta(name=name, labels=labels),
        spec=NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,), taints=taints),
        status=NodeStatus(
            capacity=resources,
            allocatable=resources,
            phase="Running",
            addresses=addresses,
            conditions=ready_conditions(now),
            node_info=NodeSystemInfo(
                kubelet_version=template.version,
                operating_system="linux",
                architecture="amd64",
                os_image="simulated",
                kernel_version="simulated",
                container_runtime_version="simulated://1",
            ),
        ),
    )


def ready_conditions(now: datetime) -> tuple[NodeCondition, ...]:
    """A healthy node's conditions."""
    good = (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    )
    return tuple(
        NodeCondition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            last_heartbeat_time=now,
            last_transition_time=now,
        )
        for kind, status, reason, message in good
    )


class NodeSimulator(Controller[ObjectName]):
    """Every simulated node's status and heartbeat."""

    name: ClassVar[str] = "simulated-nodes"  # type: ignore[misc]  # constant here, a plain attribute in the base
    workers: ClassVar[int] = 16  # type: ignore[misc]

    def __init__(self, client: Client, informers: Informers, clock: Clock) -> None:
        self._client = client
        self._nodes = informers.of(Node)
        super().__init__(clock, (self._nodes,))
        self._free = asyncio.Semaphore(WRITES_AT_ONCE)
        self._beats = asyncio.Semaphore(WRITES_AT_ONCE)
        self._due: list[tuple[float, str]] = []  # a heap: when each node's lease is to be renewed next
        self._beating: set[str] = set()  # the nodes in it
        self.made = 0  # nodes, of those to be made
        enqueue(self.queue, self._nodes)
        self._nodes.add_handler(self._node_changed, lambda _, new: self._node_changed(new), None)

    def start(self, tasks: Supervised) -> None:
        """As Controller."""
        tasks.spawn(self._beat, name="simulated heartbeats", restart=True)

    async def sync(self, key: ObjectName) -> Result:
        """As Controller: a node that is not lost is Ready, also when it comes back."""
        node = self._nodes.lister.get(key)
        if node is None or not is_simulated(node) or is_lost(node):
            return DONE
        known = {each.type: each.status for each in node.status.conditions}
        conditions = ready_conditions(self.clock.now())
        if any(known.get(each.type) != each.status for each in conditions):
            await self._renew(node)
            body = {"status": {"conditions": [_json(each) for each in conditions]}}
            if not node.status.allocatable and node.status.capacity:
                body["status"]["allocatable"] = dict(node.status.capacity)  # type: ignore[assignment]
            await self._client.patch(Node, key, body, patch_type=PatchType.STRATEGIC, subresource="status")
        return DONE

    async def make(self, count: int, template: NodeTemplate) -> None:
        """Bring the nodes made here to this number. Raises StatusError."""
        await self._nodes.synced()
        there = {
            int(node.metadata.labels[ORDINAL]): node.metadata.name
            for node in self._nodes.lister.list()
            if node.metadata.labels.get(ORDINAL, "").isdigit()
        }
        missing = [number for number in range(1, count + 1) if number not in there]
        surplus = [name for number, name in there.items() if number > count]
        async with asyncio.TaskGroup() as group:
            for number in missing:
                await self._free.acquire()
                while self._due and self._due[0][0] < self.clock.monotonic() - LATE:
                    await self.clock.sleep(TICK)  # the nodes there are must not fall silent for those that come
                group.create_task(self._surely(partial(self._create, number, template)))
            for name in surplus:
                await self._free.acquire()
                group.create_task(self._surely(partial(self._delete, name)))

    async def _surely(self, write: Callable[[], Awaitable[None]]) -> None:
        """Try again while the server cannot be reached: among thousands of requests one is lost now and then.

        Raises StatusError for what the server will never take.
        """
        try:
            while True:
                try:
                    return await write()
                except (ApiConnectionError, StatusError) as error:
                    if isinstance(error, StatusError) and error.code in FOR_EVER:
                        raise
                    log.info("%s; trying again", error)
                    await self.clock.sleep(RETRY_AFTER)
        finally:
            self._free.release()

    async def _create(self, number: int, template: NodeTemplate) -> None:
        node = make_node(number, template, self.clock.now())
        try:
            made = await self._client.create(node)
        except AlreadyExistsError:
            made = await self._client.get(Node, ObjectName("", node.metadata.name))
            if made.metadata.labels.get(ORDINAL) != str(number):
                log.warning("there is a node %s already, and it is not simulated", node.metadata.name)
                return
        await self._create_lease(made)
        self.made += 1

    async def _delete(self, name: str) -> None:
        with suppress(NotFoundError):
            await self._client.delete(Node, ObjectName("", name))

    # --- heartbeats -------------------------------------------------------------------------

    def _node_changed(self, node: Node) -> None:
        """Begin with the heartbeats of a node; they end by themselves when it is gone or lost."""
        name = node.metadata.name
        if name in self._beating or not is_simulated(node) or is_lost(node):
            return
        self._beating.add(name)
        made = node.metadata.creation_timestamp
        is_new = made is not None and (self.clock.now() - made).total_seconds() < RENEW_EVERY
        # A new node has just got its lease; of one that was there before nobody knows how old it is.
        wait = RENEW_EVERY * random.uniform(0.5, 1.5) if is_new else 0.0
        heapq.heappush(self._due, (self.clock.monotonic() + wait, name))

    async def _beat(self) -> None:
        """Renew every lease once a period, each from its own beginning on."""
        async with asyncio.TaskGroup() as group:
            while True:
                wait = self._due[0][0] - self.clock.monotonic() if self._due else TICK
                if wait > 0:
                    await self.clock.sleep(min(max(wait, 0.05), TICK))  # a few at a time
                    continue
                _, name = heapq.heappop(self._due)
                node = self._nodes.lister.get(ObjectName("", name))
                if node is None or not is_simulated(node) or is_lost(node):
                    self._beating.discard(name)
                    continue
                await self._beats.acquire()
                group.create_task(self._beat_once(node))
                period = RENEW_EVERY if len(self._beating) <= MANY else RENEW_MANY_EVERY
                heapq.heappush(self._due, (self.clock.monotonic() + period, name))

    async def _beat_once(self, node: Node) -> None:
        try:
            await self._renew(node)
        except (StatusError, ApiConnectionError) as error:
            log.debug("heartbeat of %s: %s", node.metadata.name, error)  # the next one comes soon
        finally:
            self._beats.release()

    async def _renew(self, node: Node) -> None:
        name = ObjectName(LEASES, node.metadata.name)
        now = self.clock.now()
        try:
            await self._client.patch(Lease, name, {"spec": {"renewTime": format_micro_time(now)}})
        except NotFoundError:
            await self._create_lease(node)

    async def _create_lease(self, node: Node) -> None:
        name = node.metadata.name
        owner = OwnerReference(api_version="v1", kind="Node", name=name, uid=node.metadata.uid)
        spec = LeaseSpec(holder_identity=name, lease_duration_seconds=LEASE_SECONDS, renew_time=self.clock.now())
        with suppress(AlreadyExistsError):  # of a node of this name that went away
            await self._client.create(
                Lease(metadata=ObjectMeta(name=name, namespace=LEASES, owner_references=(owner,)), spec=spec)
            )


def _json(condition: NodeCondition) -> dict[str, Any]:
    now = format_time(condition.last_heartbeat_time) if condition.last_heartbeat_time else None
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
