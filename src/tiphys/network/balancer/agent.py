"""The load balancer's part on every node: answers for the addresses that are this node's; one gives them out.

Level-driven: each turn looks at all Services, slices and Nodes in the caches. When a node dies its
addresses are answered for by others as soon as it is no longer Ready; clients learn it from the
announcement. Runs in the node's network namespace.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any, Final

from tiphys.api.core.v1 import Node, Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.netlink import Netlink
from tiphys.base.tasks import Supervised
from tiphys.client import ApiConnectionError, Client, EventRecorder, Informers, LeaderElector, PatchType
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName
from tiphys.network.balancer.announce import announcer, eligible
from tiphys.network.balancer.arp import ArpResponder
from tiphys.network.balancer.assign import Pool, assign, present_addresses, wants_address
from tiphys.network.balancer.ndp import NdpResponder

log = get_logger(__name__)

LEASE: Final = ObjectName("kube-system", "tiphys-load-balancer")
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
# A Service stays until nobody answers for its address any more.
# https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer/#garbage-collecting-load-balancers
CLEANUP: Final = "service.kubernetes.io/load-balancer-cleanup"
GATHER: Final = 0.05  # seconds: changes arriving within it are looked at together
RETRY: Final = 2.0  # seconds after a write that failed


class LoadBalancerAgent:
    """See the module. `informers.run()` is the caller's business."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        node_name: str,
        pool: Pool,
        clock: Clock | None = None,
        *,
        on_addresses: Callable[[list[str]], None] | None = None,
    ) -> None:
        """`on_addresses` is told every address this node could answer for, whichever node does on the link."""
        self._on_addresses = on_addresses
        self._client = client
        self._name = node_name
        self._pool = pool
        self._clock = clock or SystemClock()
        self._services = informers.of(Service)
        self._slices = informers.of(EndpointSlice)
        self._nodes = informers.of(Node)
        self._recorder = EventRecorder(client, self._clock, "tiphys-load-balancer", node_name)
        self._to_announce = asyncio.Event()
        self._to_assign = asyncio.Event()
        self._told: dict[ObjectName, str] = {}

    async def run(self) -> None:
        """Announce, and assign while holding the lease, until cancelled."""
        for informer in (self._services, self._slices, self._nodes):
            informer.add_handler(self._mark, lambda _, new: self._mark(new), self._mark)
            await informer.synced()
        async with Supervised(self._clock) as tasks:
            tasks.spawn(self._recorder.run, name="load balancer events")
            tasks.spawn(self._lead, name="load balancer assignment", restart=True)
            tasks.spawn(self._announce, name="load balancer announcement", restart=True)
            await asyncio.Event().wait()

    def _mark(self, _: object) -> None:
        self._to_announce.set()
        self._to_assign.set()

    # --- answering ---------------------------------------------------------------------------

    async def _announce(self) -> None:
        interface = await self._interface()
        with ExitStack() as stack:
            responders: dict[int, ArpResponder | NdpResponder] = {}
            for version, make in ((4, ArpResponder), (6, NdpResponder)):
                if version in self._pool.versions:
                    responders[version] = stack.enter_context(closing(make(interface)))
            self._to_announce.set()
            while True:
                await self._to_announce.wait()
                await self._clock.sleep(GATHER)
                self._to_announce.clear()
                here, able = self.addresses_here()
                if self._on_addresses is not None:
                    self._on_addresses(able)
                for version, responder in responders.items():
                    responder.answer_for(each for each in here if (":" in each) == (version == 6))

    def addresses_here(self) -> tuple[list[str], list[str]]:
        """The addresses this node answers for, and those it could."""
        slices: dict[ObjectName, list[EndpointSlice]] = defaultdict(list)
        for piece in self._slices.lister.list():
            owner = piece.metadata.labels.get(SERVICE_NAME_LABEL, "")
            slices[ObjectName(piece.metadata.namespace, owner)].append(piece)
        nodes = list(self._nodes.lister.list())
        mine, able = [], []
        for service in self._services.lister.list():
            found = (
                [each for each in present_addresses(service) if each in self._pool] if wants_address(service) else []
            )
            pieces = slices[ObjectName(service.metadata.namespace, service.metadata.name)]
            mine += [each for each in found if announcer(each, service, nodes, pieces) == self._name]
            able += found if self._name in eligible(service, nodes, pieces) else []
        return mine, able

    async def _interface(self) -> str:
        """The interface that has the node's address, as soon as there is one."""
        while True:
            node = self._nodes.lister.get(ObjectName("", self._name))
            own = {each.address for each in node.status.addresses if each.type == "InternalIP"} if node else set()
            with Netlink() as here:
                names = {link.index: link.name for link in here.links()}
                for address in here.addresses():
                    if address.cidr.partition("/")[0] in own:
                        return names[address.index]
            await self._clock.sleep(RETRY)

    # --- giving addresses out ----------------------------------------------------------------

    async def _lead(self) -> None:
        identity = f"{self._name}_{os.getpid()}"
        await LeaderElector(self._client, self._clock, lease=LEASE, identity=identity).run(self._assign)

    async def _assign(self) -> None:
        self._to_assign.set()
        while True:
            await self._to_assign.wait()
            await self._clock.sleep(GATHER)
            self._to_assign.clear()
            try:
                await self._assign_once()
            except (StatusError, ApiConnectionError) as error:
                log.warning("an address could not be written: %s", error)
                await self._clock.sleep(RETRY)
                self._to_assign.set()

    async def _assign_once(self) -> None:
        services = list(self._services.lister.list())
        made = assign(services, self._pool)
        for service in services:
            name = ObjectName(service.metadata.namespace, service.metadata.name)
            wanted, present = made.addresses.get(name, ()), present_addresses(service)
            problem = made.problems.get(name, "")
            if problem and self._told.get(name) != problem:
                self._recorder.event(service, "Warning", "SyncLoadBalancerFailed", f"No load balancer: {problem}")
            self._told[name] = problem
            is_held = CLEANUP in service.metadata.finalizers
            if wanted and not is_held:
                # Before the address is known: whoever sees it may rely on its being taken back.
                await self._hold(name, {"finalizers": [CLEANUP]})
            if wanted and present != wanted:
                await self._write(name, [{"ip": each, "ipMode": "VIP"} for each in wanted])
                self._recorder.event(service, "Normal", "EnsuredLoadBalancer", f"Assigned address {', '.join(wanted)}")
            elif not wanted and any(each in self._pool for each in present):
                await self._write(name, None)  # no load balancer any more, or the pool is another now
            # With a class, or an address of another pool, it is someone else who holds it.
            if (
                is_held
                and not wants_address(service)
                and not service.spec.load_balancer_class
                and all(each in self._pool for each in present)
            ):
                await self._hold(name, {"$deleteFromPrimitiveList/finalizers": [CLEANUP]})
        self._told = {name: self._told[name] for name in made.problems}

    async def _hold(self, name: ObjectName, metadata: dict[str, Any]) -> None:
        """Change the Service's finalizers; one that is gone needs none."""
        with suppress(NotFoundError):
            await self._client.patch(Service, name, {"metadata": metadata}, patch_type=PatchType.STRATEGIC)

    async def _write(self, name: ObjectName, ingress: list[dict[str, str]] | None) -> None:
        status = {"status": {"loadBalancer": {"ingress": ingress}}}
        await self._client.patch(Service, name, status, subresource="status")
