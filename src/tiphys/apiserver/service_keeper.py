"""What services hold, kept true: gives back addresses and ports that were freed, and repairs what a crash left behind.

IPAddress 10.96.0.7 ── its service is gone ──▶ deleted        service without its IPAddress ──▶ created
node port 30501 ────── its service is gone ──▶ given back     service without its claim ──────▶ claimed
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tiphys.apiserver.bootstrap.writer import SERVER, Writer
from tiphys.apiserver.registry.core.service_addresses import MANAGER, MANAGER_LABEL, ClusterAddresses
from tiphys.apiserver.registry.core.service_allocation import ServiceAllocation, all_node_ports
from tiphys.apiserver.registry.core.service_fields import cluster_ips
from tiphys.apiserver.registry.core.service_ports import NodePorts, PortOutOfRange, PortTaken
from tiphys.apiserver.registry.core.services import ServiceStrategy
from tiphys.apiserver.registry.options import DeleteOptions
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap
from tiphys.apiserver.registry.store import NoAdmission
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError, already_exists
from tiphys.machinery.formats import IPNetwork
from tiphys.machinery.meta import GroupResource, ObjectName
from tiphys.store import Store

log = get_logger(__name__)

NETWORKING: Final = "networking.k8s.io"
IP_ADDRESSES: Final = GroupResource(NETWORKING, "ipaddresses")
# Seconds between two looks at everything; upstream repairs every three minutes.
REPAIR_PERIOD: Final = 180.0


class StoredAddresses:
    """The IPAddress objects, through the registry (an `AddressBook`)."""

    def __init__(self, resources: ResourceMap, reader: CacheReader, clock: Clock) -> None:
        self._resources = resources
        self._reader = reader
        self._clock = clock
        self._writer = Writer(resources, reader, clock.now)

    def get(self, address: str) -> Object | None:
        """The object of an address."""
        return self._reader.get(NETWORKING, "ipaddresses", ("", address))

    async def create(self, obj: Object) -> None:
        """Store a new one. Raises AlreadyExistsError, StatusError."""
        if not await self._writer.create(NETWORKING, "v1", "ipaddresses", obj):
            raise already_exists(IP_ADDRESSES, obj["metadata"]["name"])

    async def delete(self, address: str) -> None:
        """Remove one, if it is there."""
        store = self._resources.store(NETWORKING, "ipaddresses")
        if store is None:
            return
        ctx = RequestContext(user=SERVER, now=self._clock.now(), reader=self._reader, name=address)
        with suppress(NotFoundError):
            await store.delete(ctx, DeleteOptions.parse({}), NoAdmission())


class ServiceKeeper:
    """Allocation for services of one API server, and its upkeep. Started once the cache is filled."""

    def __init__(
        self,
        resources: ResourceMap,
        reader: CacheReader,
        store: Store,
        clock: Clock,
        service_cidr: str,
        node_ports: tuple[int, int],
    ) -> None:
        self._reader = reader
        self._tasks = Supervised(clock)
        self._wake = asyncio.Event()
        self._default = [ipaddress.ip_network(text.strip()) for text in service_cidr.split(",")]
        rng = random.SystemRandom()
        self.addresses = ClusterAddresses(StoredAddresses(resources, reader, clock), self._networks, rng)
        self.ports = NodePorts(store, *node_ports, rng)
        self.allocation = ServiceAllocation(self.addresses, self.ports, self._wake.set)
        self._suspected: set[str] = set()
        services = resources.store("", "services")
        if services is not None and isinstance(services.strategy, ServiceStrategy):
            services.strategy.allocation = self.allocation

    async def start(self) -> None:
        """Begin the upkeep."""
        await self._tasks.__aenter__()
        self._tasks.spawn(self._run, name="service-keeper", restart=True)

    async def stop(self) -> None:
        """End the upkeep."""
        await self._tasks.__aexit__(None, None, None)

    def _networks(self) -> Sequence[IPNetwork]:
        """The default range, then those of ServiceCIDR objects that are not being deleted."""
        networks = list(self._default)
        for obj in self._reader.list(NETWORKING, "servicecidrs"):
            if obj["metadata"].get("deletionTimestamp"):
                continue
            for text in (obj.get("spec") or {}).get("cidrs") or ():
                network = ipaddress.ip_network(text)
                if network not in networks:
                    networks.append(network)
        return networks

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), REPAIR_PERIOD)
            if self._wake.is_set():
                self._wake.clear()
                await self.allocation.drain()
            else:
                await self.repair()

    async def repair(self) -> None:
        """Make addresses and ports agree with the services; what looks lost is given back when seen lost twice."""
        services = self._reader.list("", "services")
        suspected: set[str] = set()
        for service in services:
            await self._claim_missing(service)
        held = {ip for service in services for ip in cluster_ips(service.get("spec") or {})}
        for obj in self._reader.list(NETWORKING, "ipaddresses"):
            name, labels = obj["metadata"]["name"], obj["metadata"].get("labels") or {}
            if labels.get(MANAGER_LABEL) == MANAGER and name not in held:
                suspected.add(name)
        numbers = {port for service in services for port in all_node_ports(service.get("spec") or {})}
        claimed = await self.ports.claimed()
        suspected |= {str(port) for port in claimed if port not in numbers}
        lost = suspected & self._suspected
        self._suspected = suspected
        if lost:
            log.warning("giving back what no service holds: %s", ", ".join(sorted(lost)))
        await self.ports.release([int(one) for one in lost if one.isdecimal()])
        await self.addresses.release([one for one in lost if not one.isdecimal()])

    async def _claim_missing(self, service: Object) -> None:
        metadata, spec = service["metadata"], service.get("spec") or {}
        owner = ObjectName(metadata.get("namespace", ""), metadata["name"])
        for address in cluster_ips(spec):
            if address == "None":
                continue
            try:
                await self.addresses.claim_again(address, owner)
            except (AlreadyExistsError, StatusError) as error:
                log.warning("address %s of service %s cannot be claimed: %s", address, owner, error)
        for port in all_node_ports(spec):
            with suppress(PortTaken):
                try:
                    await self.ports.claim(port, metadata.get("uid", ""))
                except PortOutOfRange:
                    log.warning("node port %d of service %s is outside the range", port, owner)
