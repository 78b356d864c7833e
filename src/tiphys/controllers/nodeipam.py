"""Gives every node its part of the cluster's pod addresses: the first free /24 of `--cluster-cidr`.

What is taken is read from the nodes themselves; only allocations the cache does not show yet are
remembered. One worker, so that no block is given twice.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from tiphys.api.core.v1 import Node, ObjectReference
from tiphys.client import DONE, NORMAL, Controller, Result, enqueue, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

Network = IPv4Network | IPv6Network


class BlockSet:
    """The blocks of one size in one range; block number n begins n blocks after the range does."""

    def __init__(self, cidr: str, prefix: int, excluded: str = "") -> None:
        self.range: Network = ip_network(cidr)
        if prefix < self.range.prefixlen:
            raise ValueError(f"node CIDR mask /{prefix} is larger than the cluster CIDR {cidr}")
        self.prefix = prefix
        self.count = 1 << (prefix - self.range.prefixlen)
        self._size = 1 << (self.range.max_prefixlen - prefix)
        self._taken: dict[int, str] = {}
        self._next = 0
        for each in filter(None, excluded.split(",")):
            self._exclude(ip_network(each))

    def occupy(self, cidr: str, owner: str) -> None:
        """Note that a block is a node's; one outside the range is ignored."""
        number = self._number(ip_network(cidr, strict=False))
        if number is not None:
            self._taken.setdefault(number, owner)

    def release(self, cidr: str, owner: str) -> None:
        """The node is gone; its block is free again."""
        number = self._number(ip_network(cidr, strict=False))
        if number is not None and self._taken.get(number) == owner:
            del self._taken[number]
            self._next = min(self._next, number)

    def allocate(self, owner: str) -> str | None:
        """A block nobody has; None when there is none left."""
        while self._next < self.count and self._next in self._taken:
            self._next += 1
        if self._next >= self.count:
            return None
        self._taken[self._next] = owner
        return f"{self.range[self._next * self._size]}/{self.prefix}"

    def _number(self, block: Network) -> int | None:
        if block.version != self.range.version or block.network_address not in self.range:
            return None
        offset = int(block.network_address) - int(self.range.network_address)
        return offset // self._size

    def _exclude(self, block: Network) -> None:
        if block.version != self.range.version or not block.overlaps(self.range):
            return
        first = max(int(block.network_address), int(self.range.network_address))
        last = min(int(block.broadcast_address), int(self.range.broadcast_address))
        start = int(self.range.network_address)
        for number in range((first - start) // self._size, (last - start) // self._size + 1):
            self._taken[number] = "services"


class NodeIpamController(Controller[ObjectName]):
    """The controller `node-ipam-controller`."""

    name = "node"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("cidrAllocator")
        self._nodes = context.informers.of(Node)
        super().__init__(context.clock, (self._nodes,))
        options = context.options
        self._blocks = [
            BlockSet(
                cidr,
                options.node_cidr_mask_size_ipv6 if ":" in cidr else options.node_cidr_mask_size_ipv4,
                options.service_cluster_ip_range,
            )
            for cidr in options.cluster_cidrs
        ]
        self._allocated: dict[str, tuple[str, ...]] = {}  # by node uid
        self._nodes.add_handler(self._occupy, lambda _, new: self._occupy(new), self._release)
        enqueue(self.queue, self._nodes)

    def _occupy(self, node: Node) -> None:
        for cidr in cidrs_of(node):
            for blocks in self._blocks:
                blocks.occupy(cidr, node.metadata.uid)

    def _release(self, node: Node) -> None:
        for cidr in {*cidrs_of(node), *self._allocated.pop(node.metadata.uid, ())}:
            for blocks in self._blocks:
                blocks.release(cidr, node.metadata.uid)

    async def sync(self, key: ObjectName) -> Result:
        """Give one node its blocks."""
        node = self._nodes.lister.get(key)
        if node is None or not self._blocks or cidrs_of(node) or node.metadata.deletion_timestamp is not None:
            return DONE
        uid = node.metadata.uid
        if uid not in self._allocated:
            found = [blocks.allocate(uid) for blocks in self._blocks]
            allocated = tuple(cidr for cidr in found if cidr is not None)
            if len(allocated) < len(self._blocks):
                for cidr in allocated:
                    for blocks in self._blocks:
                        blocks.release(cidr, uid)
                self._event(node, "CIDRNotAvailable")
                raise RuntimeError(f"no CIDR left for node {key.name}")
            self._allocated[uid] = allocated
        cidrs = self._allocated[uid]
        patch = {"metadata": {"uid": uid}, "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)}}
        try:
            await self._client.patch(Node, key_of(node), patch)
        except NotFoundError:
            return DONE
        return DONE

    def _event(self, node: Node, status: str) -> None:
        name = node.metadata.name
        reference = ObjectReference(kind="Node", api_version="v1", name=name, uid=name)
        self._recorder.event(reference, NORMAL, status, f"Node {name} status is now: {status}")


def cidrs_of(node: Node) -> tuple[str, ...]:
    """The blocks a node has."""
    return node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
