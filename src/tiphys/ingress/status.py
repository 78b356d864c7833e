"""Statuses of Ingresses, Gateways and routes, written by whichever controller holds the lease."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from tiphys.api.core.v1 import Node
from tiphys.api.networking.v1 import Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Client, Informers, LeaderElector, PatchType
from tiphys.client.endpoint import Endpoint
from tiphys.ingress.gateway import status as gateway_statuses
from tiphys.ingress.gateway.translate import CONTROLLER, Outcome
from tiphys.ingress.gateway.types import GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES
from tiphys.ingress.gateway.watching import GatewayObjects
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

LEASE: Final = ObjectName("kube-system", "tiphys-ingress")
RETRY: Final = 2.0  # seconds after a write that failed
GATHER: Final = 0.1


class StatusWriter:
    """Told what is wanted with `want`; writes what differs from it while it holds the lease."""

    def __init__(
        self, client: Client, informers: Informers, node_name: str, addresses: Sequence[str], clock: Clock
    ) -> None:
        self._client = client
        self._clock = clock
        self._identity = f"{node_name}_{os.getpid()}"
        self._addresses = tuple(addresses)
        self._nodes = informers.of(Node)
        self._nodes.add_handler(self._see, lambda _, new: self._see(new), self._see)
        self._seen: tuple[str, ...] = ()
        self._wake = asyncio.Event()
        self._ingresses: Sequence[Ingress] = ()
        self._outcome = Outcome()
        self._objects: GatewayObjects | None = None

    def want(self, ingresses: Sequence[Ingress], outcome: Outcome, objects: GatewayObjects) -> None:
        """The Ingresses that are ours, and the verdicts about Gateways and routes."""
        self._ingresses, self._outcome, self._objects = ingresses, outcome, objects
        self._wake.set()

    def _see(self, _: Node) -> None:
        if self.addresses() != self._seen:
            self._seen = self.addresses()
            self._wake.set()

    def addresses(self) -> tuple[str, ...]:
        """Where the proxies are reached: as configured, else the addresses of all nodes that are Ready."""
        if self._addresses:
            return self._addresses
        found = []
        for node in self._nodes.lister.list():
            ready = any(each.type == "Ready" and each.status == "True" for each in node.status.conditions)
            own = [each.address for each in node.status.addresses if each.type == "InternalIP"]
            found += own[:1] if ready else []
        return tuple(sorted(found))

    async def run(self) -> None:
        """Stand for election, and write while leading."""
        await LeaderElector(self._client, self._clock, lease=LEASE, identity=self._identity).run(self._write)

    async def _write(self) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER)
            self._wake.clear()
            try:
                await self._write_all()
            except (StatusError, ApiConnectionError) as error:
                log.warning("a status could not be written: %s", error)
                await self._clock.sleep(RETRY)
                self._wake.set()

    async def _write_all(self) -> None:
        addresses = self.addresses()
        wanted = IngressLoadBalancerStatus(ingress=tuple(IngressLoadBalancerIngress(ip=each) for each in addresses))
        for ingress in self._ingresses:
            present = ingress.status.load_balancer or IngressLoadBalancerStatus()
            if present != wanted:
                await self._patch(Ingress, ingress, {"loadBalancer": wanted if addresses else None})
        if self._objects is None:
            return
        now = self._clock.now().replace(microsecond=0)
        for each in self._objects.classes():
            if each.spec.controller_name == CONTROLLER:
                judged = gateway_statuses.class_status(each, now)
                await self._change(GATEWAY_CLASSES, each, each.status, judged)
        for gateway in self._objects.gateways():
            listeners = self._outcome.gateways.get(_name(gateway))
            if listeners is not None:
                stated = gateway_statuses.gateway_status(gateway, listeners, addresses, now)
                await self._change(GATEWAYS, gateway, gateway.status, stated)
        for route in self._objects.routes():
            said = gateway_statuses.route_status(route, self._outcome.routes.get(_name(route), ()), now)
            await self._change(HTTP_ROUTES, route, route.status, said)

    async def _change(self, kind: Endpoint[Any], each: Any, before: object, after: object) -> None:
        if before != after:
            await self._patch(kind, each, after)

    async def _patch(self, kind: Any, each: Any, status: object) -> None:
        try:
            await self._client.patch(
                kind, _name(each), {"status": status}, patch_type=PatchType.MERGE, subresource="status"
            )
        except NotFoundError:
            pass  # deleted meanwhile


def _name(each: Any) -> ObjectName:
    return ObjectName(each.metadata.namespace, each.metadata.name)
