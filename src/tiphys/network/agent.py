"""The network agent of a node: takes its pod CIDRs from its Node object and keeps the ways to the others.

In order: wait until the node has a pod CIDR and an address; prepare the back end's device; tell
our CNI plugin (`subnet.json`), so that pods can start; announce the device on the Node; masquerade
what leaves the cluster; then follow the Nodes. Each address family has a way of its own.
Level-driven: each turn compares all Nodes in the cache with what is in the kernel, so lost,
repeated or reordered events are harmless. Runs in the node's network namespace; when it dies,
packets keep flowing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tiphys.api.core.v1 import ConfigMap, Node
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.nft import AsyncNft, NftError
from tiphys.client import Client, Informers
from tiphys.machinery.meta import ObjectName
from tiphys.network import masquerade
from tiphys.network.backends.bgp import BgpBackend
from tiphys.network.backends.host_gw import HostGatewayBackend
from tiphys.network.backends.ipip import IpipBackend
from tiphys.network.backends.model import (
    ADDRESS_ANNOTATIONS,
    DATA_ANNOTATIONS,
    TYPE_ANNOTATION,
    Backend,
    Local,
    Peer,
    Prepared,
)
from tiphys.network.backends.vxlan import VxlanBackend, mac_in
from tiphys.network.bgp.settings import BgpSettings
from tiphys.network.subnet import Subnet

log = get_logger(__name__)

T = TypeVar("T")

# Every back end by the name `--network` knows it. Made for one IP version, with a directory for its files.
BACKENDS: Final[dict[str, Callable[[int, Path], Backend]]] = {
    "vxlan": VxlanBackend,
    "host-gw": HostGatewayBackend,
    "bgp": BgpBackend,
    "ipip": IpipBackend,
}
# The administrator's words, followed while the agent runs: `backend` (in place of the flag) and `bgp.yaml`.
CONFIG_MAP: Final = ObjectName("kube-system", "tiphys-network")
RETRY: Final = 2.0  # seconds until something refused is tried again


def internal_ip(node: Node, version: int = 4) -> str:
    """The node's InternalIP of a family; empty when it has none yet. Without one, a public IP announced by Flannel."""
    announced = node.metadata.annotations.get(ADDRESS_ANNOTATIONS[version], "")
    own = [each.address for each in node.status.addresses if each.type == "InternalIP"]
    for address in (*own, announced):
        if address and ipaddress.ip_address(address).version == version:
            return address
    return ""


def pod_cidrs(node: Node) -> tuple[str, ...]:
    """The node's pod CIDRs, the first being the one of its primary family; none yet: empty."""
    return node.spec.pod_cidrs or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def local_of(node: Node, version: int = 4) -> Local | None:
    """This node's part in a family; None until it has a pod CIDR and an address of it."""
    cidr = next((each for each in pod_cidrs(node) if ipaddress.ip_network(each).version == version), "")
    address = internal_ip(node, version)
    return Local(name=node.metadata.name, ip=address, cidr=cidr) if cidr and address else None


def locals_of(node: Node) -> dict[int, Local]:
    """IP version → this node's part, the primary family first. None until it has an address for every pod CIDR."""
    versions: list[int] = [ipaddress.ip_network(each).version for each in pod_cidrs(node)]
    found = {version: local for version in versions if (local := local_of(node, version)) is not None}
    return found if len(found) == len(versions) else {}


def peers_of(nodes: Iterable[Node], own_name: str, version: int = 4) -> list[Peer]:
    """The other nodes that can be sent to in a family, by name."""
    peers = []
    for node in nodes:
        local = local_of(node, version) if node.metadata.name != own_name else None
        if local is not None:
            mac = mac_in(node.metadata.annotations.get(DATA_ANNOTATIONS[version], ""))
            peers.append(Peer(name=local.name, ip=local.ip, cidr=local.cidr, mac=mac))
    return sorted(peers, key=lambda peer: peer.name)


@dataclass(slots=True)
class _Way:
    """One family's back end, and what it was told last."""

    version: int
    backend: Backend
    local: Local
    prepared: Prepared
    peers: list[Peer] | None = None


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
        self._maps = informers.of(
            ConfigMap, namespace=CONFIG_MAP.namespace, field_selector=f"metadata.name={CONFIG_MAP.name}"
        )
        self._default = self._backend_name = backend
        self._bgp = BgpSettings()
        self._balanced: tuple[str, ...] = ()
        self._is_clean = False  # nothing of another back end is left
        self._clock = clock or SystemClock()
        self._changed = asyncio.Event()
        self._ways: dict[int, _Way] = {}
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Follow the Nodes until cancelled. `informers.run()` is the caller's business."""
        self._nodes.add_handler(lambda _: self._changed.set(), self._on_update, lambda _: self._changed.set())
        self._maps.add_handler(
            lambda _: self._changed.set(), lambda *_: self._changed.set(), lambda _: self._changed.set()
        )
        await self._nodes.synced()
        await self._maps.synced()
        nft = AsyncNft()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        try:
            self._changed.set()
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    done = await self._turn(executor, nft)
                except (OSError, NftError) as error:
                    log.error("the pod network cannot be set up: %s", error)
                    done = False
                if not done:
                    await self._clock.sleep(RETRY)
                    self._changed.set()
        finally:
            await self._close(executor)
            executor.shutdown()
            nft.close()

    async def _turn(self, executor: ThreadPoolExecutor, nft: AsyncNft) -> bool:
        """One comparison of the cache with the kernel; False: something was refused, try again soon."""
        node = self._nodes.lister.get(ObjectName("", self._name))
        wanted = locals_of(node) if node is not None else {}
        if node is None or not wanted:
            return True  # its next change wakes us
        await self._configure(executor)
        if {version: way.local for version, way in self._ways.items()} != wanted:
            await self._prepare(executor, nft, wanted)
        await self._announce(node)
        loop = asyncio.get_running_loop()
        done = True
        for way in self._ways.values():
            peers = peers_of(self._nodes.lister.list(), self._name, way.version)
            if isinstance(way.backend, BgpBackend) and (way.backend.settings, way.backend.balanced) != (
                self._bgp,
                self._balanced,
            ):
                way.backend.settings, way.backend.balanced = self._bgp, self._balanced
                way.peers = None
            if peers == way.peers:
                continue
            failures: Sequence[str] = await loop.run_in_executor(executor, way.backend.sync, peers)
            for failure in failures:
                log.error("pod network: %s", failure)
            way.peers = None if failures else peers
            done = done and not failures
        if done and not self._is_clean and self._all_changed():
            await loop.run_in_executor(executor, self._clean_others)
            self._is_clean = True
        return done

    def balance(self, addresses: Iterable[str]) -> None:
        """The addresses of load balancers this node may answer for; told to routers where there is BGP."""
        wanted = tuple(sorted(addresses))
        if wanted != self._balanced:
            self._balanced = wanted
            self._changed.set()

    # --- which back end --------------------------------------------------------------------

    async def _configure(self, executor: ThreadPoolExecutor) -> None:
        """Follow the ConfigMap. What it says wrong is reported, and the last that was right stays."""
        found = self._maps.lister.get(CONFIG_MAP)
        data = found.data if found is not None else {}
        wanted = data.get("backend", "").strip() or self._default
        if wanted not in BACKENDS:
            log.error('ConfigMap %s: unknown back end "%s"; there are: %s', CONFIG_MAP, wanted, ", ".join(BACKENDS))
            wanted = self._backend_name
        try:
            self._bgp = BgpSettings.parse(data.get("bgp.yaml", ""))
        except ValueError as error:
            log.error("ConfigMap %s: %s", CONFIG_MAP, error)
        if wanted != self._backend_name:
            log.info("pod network: from %s to %s", self._backend_name, wanted)
            await self._close(executor)
            self._backend_name, self._is_clean = wanted, False

    async def _close(self, executor: ThreadPoolExecutor) -> None:
        """Leave the ways as they are in the kernel, and whoever keeps them."""
        for way in self._ways.values():
            await asyncio.get_running_loop().run_in_executor(executor, way.backend.close)
        self._ways.clear()

    def _all_changed(self) -> bool:
        """Whether every node has this back end: as long as one has not, it sends to us by its own."""
        said = (each.metadata.annotations.get(TYPE_ANNOTATION, "") for each in self._nodes.lister.list())
        return all(each in ("", self._backend_name) for each in said)

    def _clean_others(self) -> None:
        for name, make in BACKENDS.items():
            for version in self._ways if name != self._backend_name else ():
                other = make(version, self._subnet_file.parent)
                try:
                    other.clean_up()
                finally:
                    other.close()

    async def _prepare(self, executor: ThreadPoolExecutor, nft: AsyncNft, wanted: dict[int, Local]) -> None:
        """Make the ways of this node's addresses, and let pods be connected."""
        loop = asyncio.get_running_loop()
        for version in self._ways.keys() - wanted.keys():
            await loop.run_in_executor(executor, self._ways.pop(version).backend.close)
        for version, local in wanted.items():
            known = self._ways.get(version)
            if known is not None and known.local == local:
                continue
            make = BACKENDS[self._backend_name]
            backend = known.backend if known is not None else make(version, self._subnet_file.parent)
            prepared = await loop.run_in_executor(executor, backend.prepare, local)
            self._ways[version] = _Way(version, backend, local, prepared)
        mtu = min(way.prepared.mtu for way in self._ways.values())
        cidrs = tuple(local.cidr for local in wanted.values())
        await masquerade.apply(nft, cidrs, self._cluster_cidr)
        Subnet(cidrs=cidrs, mtu=mtu, cluster_cidr=self._cluster_cidr).write(self._subnet_file)
        self.ready.set()
        log.info("pod network: %s through %s, MTU %d", ", ".join(cidrs), self._backend_name, mtu)

    async def _announce(self, node: Node) -> None:
        said = {key: value for way in self._ways.values() for key, value in way.prepared.annotations.items()}
        missing = {key: value for key, value in said.items() if node.metadata.annotations.get(key) != value}
        if missing:
            await self._client.patch(
                Node, ObjectName("", self._name), {"metadata": {"annotations": missing}}, subresource="status"
            )

    def _on_update(self, old: Node, new: Node) -> None:
        # A node's heartbeats are most of its updates, and nothing to us.
        if old.metadata.annotations != new.metadata.annotations or _facts(old) != _facts(new):
            self._changed.set()


def _facts(node: Node) -> tuple[Local | None, ...]:
    """Of a node what matters to the ways."""
    return tuple(local_of(node, version) for version in ADDRESS_ANNOTATIONS)
