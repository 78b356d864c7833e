"""The network agent of a node: takes its pod CIDR from its Node object and keeps the ways to the others.

In order: wait until the node has a pod CIDR and an address; prepare the back end's device; tell
our CNI plugin (`subnet.json`), so that pods can start; announce the device on the Node; masquerade
what leaves the cluster; then follow the Nodes. Level-driven: each turn compares all Nodes in the
cache with what is in the kernel, so lost, repeated or reordered events are harmless. Runs in the
node's network namespace; when it dies, packets keep flowing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from tiphys.api.core.v1 import Node
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.nft import AsyncNft, NftError
from tiphys.client import Client, Informers
from tiphys.machinery.meta import ObjectName
from tiphys.network import masquerade
from tiphys.network.backends.host_gw import HostGatewayBackend
from tiphys.network.backends.model import Backend, Local, Peer, Prepared
from tiphys.network.backends.vxlan import ADDRESS_ANNOTATION, DATA_ANNOTATION, VxlanBackend, mac_in
from tiphys.network.subnet import Subnet

log = get_logger(__name__)

T = TypeVar("T")

# Every back end by the name `--network` knows it; bgp follows.
BACKENDS: Final[dict[str, Callable[[], Backend]]] = {"vxlan": VxlanBackend, "host-gw": HostGatewayBackend}
RETRY: Final = 2.0  # seconds until something refused is tried again


def internal_ip(node: Node) -> str:
    """The node's IPv4 InternalIP; empty when it has none yet. An announced public IP goes first, as with Flannel."""
    announced = node.metadata.annotations.get(ADDRESS_ANNOTATION, "")
    own = [each.address for each in node.status.addresses if each.type == "InternalIP"]
    for address in (*own, announced):
        if address and ipaddress.ip_address(address).version == 4:
            return address
    return ""


def pod_cidrs(node: Node) -> tuple[str, ...]:
    """The node's pod CIDRs, the first being the one of its primary family; none yet: empty."""
    return node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def local_of(node: Node) -> Local | None:
    """This node's part; None until it has an IPv4 pod CIDR and an address."""
    cidr = next((each for each in pod_cidrs(node) if ipaddress.ip_network(each).version == 4), "")
    address = internal_ip(node)
    return Local(name=node.metadata.name, ip=address, cidr=cidr) if cidr and address else None


def peers_of(nodes: Iterable[Node], own_name: str) -> list[Peer]:
    """The other nodes that can be sent to, by name."""
    peers = []
    for node in nodes:
        local = local_of(node) if node.metadata.name != own_name else None
        if local is not None:
            mac = mac_in(node.metadata.annotations.get(DATA_ANNOTATION, ""))
            peers.append(Peer(name=local.name, ip=local.ip, cidr=local.cidr, mac=mac))
    return sorted(peers, key=lambda peer: peer.name)


class NetworkAgent:
    """See the module. `ready` is set when pods of this node can be connected."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        node_name: str,
        *,
        subnet_file: Path,
        cluster_cidr: str,
        backend: str = "vxlan",
        clock: Clock | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f'unknown network back end "{backend}"; there are: {", ".join(BACKENDS)}')
        self._client = client
        self._nodes = informers.of(Node)
        self._name = node_name
        self._subnet_file = subnet_file
        self._cluster_cidr = cluster_cidr
        self._backend_name = backend
        self._clock = clock or SystemClock()
        self._changed = asyncio.Event()
        self._prepared: tuple[Local, Prepared] | None = None
        self._subnet: Subnet | None = None
        self._peers: list[Peer] | None = None
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Follow the Nodes until cancelled. `informers.run()` is the caller's business."""
        self._nodes.add_handler(lambda _: self._changed.set(), self._on_update, lambda _: self._changed.set())
        await self._nodes.synced()
        nft = AsyncNft()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        loop = asyncio.get_running_loop()
        backend = await loop.run_in_executor(executor, BACKENDS[self._backend_name])
        try:
            self._changed.set()
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    done = await self._turn(executor, backend, nft)
                except (OSError, NftError) as error:
                    log.error("the pod network cannot be set up: %s", error)
                    done = False
                if not done:
                    await self._clock.sleep(RETRY)
                    self._changed.set()
        finally:
            await loop.run_in_executor(executor, backend.close)
            executor.shutdown()
            nft.close()

    async def _turn(self, executor: ThreadPoolExecutor, backend: Backend, nft: AsyncNft) -> bool:
        """One comparison of the cache with the kernel; False: something was refused, try again soon."""
        node = self._nodes.lister.get(ObjectName("", self._name))
        local = local_of(node) if node is not None else None
        if node is None or local is None:
            return True  # its next change wakes us
        loop = asyncio.get_running_loop()
        if self._prepared is None or self._prepared[0] != local:
            prepared = await loop.run_in_executor(executor, backend.prepare, local)
            self._prepared = (local, prepared)
            self._peers = None
            subnet = Subnet(cidrs=(local.cidr,), mtu=prepared.mtu, cluster_cidr=self._cluster_cidr)
            await masquerade.apply(nft, subnet.cidrs, self._cluster_cidr)
            subnet.write(self._subnet_file)
            self.ready.set()
            log.info("pod network: %s through %s, MTU %d", local.cidr, self._backend_name, prepared.mtu)
        await self._announce(node, self._prepared[1])
        peers = peers_of(self._nodes.lister.list(), self._name)
        if peers == self._peers:
            return True
        failures: Sequence[str] = await loop.run_in_executor(executor, backend.sync, peers)
        for failure in failures:
            log.error("pod network: %s", failure)
        self._peers = None if failures else peers
        return not failures

    async def _announce(self, node: Node, prepared: Prepared) -> None:
        missing = {k: v for k, v in prepared.annotations.items() if node.metadata.annotations.get(k) != v}
        if missing:
            await self._client.patch(
                Node, ObjectName("", self._name), {"metadata": {"annotations": missing}}, subresource="status"
            )

    def _on_update(self, old: Node, new: Node) -> None:
        # A node's heartbeats are most of its updates, and nothing to us.
        if old.metadata.annotations != new.metadata.annotations or local_of(old) != local_of(new):
            self._changed.set()
