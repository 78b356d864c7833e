"""Pods on simulated nodes: does each pod's next step when its moment has come.

Level-driven: the step follows from the pod in the cache alone. After a write the pod is left alone until the cache
shows that write, so that nothing is done twice.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import ClassVar, Final

from tiphys.api.core.v1 import Node
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import DONE, Client, Controller, Informers, PatchType, Preconditions, RequeueAfter, Result, enqueue
from tiphys.machinery.errors import ConflictError, NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.simulation import annotations as names
from tiphys.simulation.life import Step, next_step
from tiphys.simulation.nodes import is_lost, is_simulated
from tiphys.simulation.status import patch_for
from tiphys.simulation.views import PODS, PodView

log = get_logger(__name__)

ON_NODE: Final = "simulated node"
ENDED: Final = ("Succeeded", "Failed")
UNTIL_ADDRESS: Final = timedelta(seconds=5)  # until a pod is tried again for which its node has no address


class PodSimulator(Controller[ObjectName]):
    """The pods of all simulated nodes."""

    name: ClassVar[str] = "simulated-pods"  # type: ignore[misc]  # constant here, a plain attribute in the base
    workers: ClassVar[int] = 32  # type: ignore[misc]

    def __init__(self, client: Client, informers: Informers, clock: Clock) -> None:
        self._client = client
        self._nodes = informers.of(Node)
        # Nothing happens to a pod before it has a node.
        self._pods = informers.of(PODS, field_selector="spec.nodeName!=")
        super().__init__(clock, (self._nodes, self._pods))
        self._addresses = Addresses()
        self._written: dict[ObjectName, int] = {}  # the revision of our last write of a pod
        self._pods.add_index(ON_NODE, lambda pod: (pod.spec.node_name,) if pod.spec.node_name else ())
        # Before anything is given out: a pod begun with first would otherwise get the address of one not yet looked at.
        self._pods.add_handler(self._note_address)
        enqueue(self.queue, self._pods)
        self._nodes.add_handler(self._node_changed, lambda _, new: self._node_changed(new), None)

    async def sync(self, key: ObjectName) -> Result:
        """As Controller: do the pod's next step, if it is due."""
        pod: PodView | None = self._pods.lister.get(key)
        if pod is None:
            self._addresses.release(key)
            self._written.pop(key, None)
            return DONE
        node = self._nodes.lister.get(ObjectName("", pod.spec.node_name)) if pod.spec.node_name else None
        if node is None or not is_simulated(node) or is_lost(node):
            return DONE  # others' business; comes back when the node changes
        if self._written.get(key, 0) > int(pod.metadata.resource_version):
            return DONE  # comes back when the cache shows what was written
        if pod.status.phase in ENDED:
            self._addresses.release(key)  # an ended pod keeps it in its status, but others may have it
        now = self.clock.now()
        step = next_step(pod, now)
        if step is None:
            return DONE
        if step.at > now:
            return RequeueAfter(step.at - now)
        return await self._do(step.step, key, pod, node)

    async def _do(self, step: Step, key: ObjectName, pod: PodView, node: Node) -> Result:
        try:
            if step is Step.REMOVE:
                await self._client.delete(
                    PODS, key, grace_period_seconds=0, only_if=Preconditions(uid=pod.metadata.uid)
                )
                return DONE
            host = next((each.address for each in node.status.addresses if each.type == "InternalIP"), "")
            ip = pod.status.pod_ip or (host if pod.spec.host_network else self._addresses.take(key, node.spec.pod_cidr))
            if step is Step.START and not ip and node.spec.pod_cidr:
                log.info("no address of %s is free for pod %s", node.spec.pod_cidr, key)
                return RequeueAfter(UNTIL_ADDRESS)
            at_once = names.READY_AFTER not in pod.metadata.annotations
            patch = patch_for(step, pod, self.clock.now(), ip, host, at_once)
            patched: PodView = await self._client.patch(
                PODS, key, patch, patch_type=PatchType.STRATEGIC, subresource="status"
            )
            self._written[key] = int(patched.metadata.resource_version)
        except (NotFoundError, ConflictError):
            pass  # gone, or another of its name: the cache will say so, and the pod comes back
        return DONE

    def _note_address(self, pod: PodView) -> None:
        if pod.status.pod_ip and not pod.spec.host_network and pod.status.phase not in ENDED:
            self._addresses.note(ObjectName(pod.metadata.namespace, pod.metadata.name), pod.status.pod_ip)

    def _node_changed(self, node: Node) -> None:
        if is_simulated(node):
            for pod in self._pods.lister.by_index(ON_NODE, node.metadata.name):
                self.queue.add(ObjectName(pod.metadata.namespace, pod.metadata.name))


class Addresses:
    """Who has which address. A node's range is given out in order, and again once it is through."""

    def __init__(self) -> None:
        self._of: dict[ObjectName, str] = {}
        self._used: set[str] = set()
        self._last: dict[str, int] = {}

    def take(self, key: ObjectName, cidr: str) -> str:
        """An address of `cidr` for a pod; "" when the node has no range, or none is left in it."""
        if not cidr:
            return ""
        network, own = ipaddress.ip_network(cidr), self._of.get(key, "")
        if own and ipaddress.ip_address(own) in network:  # and not one that a pod of this name had on another node
            return own
        hosts = max(network.num_addresses - 3, 1)  # not the network's own, the bridge's and the last
        last = self._last.get(cidr, -1)
        for turn in range(1, hosts + 1):
            number = (last + turn) % hosts
            address = str(network[number + 2])
            if address not in self._used:
                self._last[cidr] = number
                self.note(key, address)
                return address
        return ""

    def note(self, key: ObjectName, address: str) -> None:
        """The pod has this address."""
        if self._of.get(key) != address:
            self.release(key)
            self._of[key] = address
            self._used.add(address)

    def release(self, key: ObjectName) -> None:
        """The pod is gone; nothing happens if it had none."""
        self._used.discard(self._of.pop(key, ""))
