"""A route to each node's pods, by the provider, and the node condition that says so.

https://kubernetes.io/docs/concepts/architecture/cloud-controller/#route-controller
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from ipaddress import ip_network
from typing import Final

from tiphys.api.core.v1 import Node
from tiphys.base.log import get_logger
from tiphys.client import DONE, WARNING, Controller, PatchType, RequeueAfter, Result, key_of
from tiphys.controllers.cloud.provider import Route, Routes
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.time import format_time

log = get_logger(__name__)

PERIOD: Final = timedelta(seconds=10)
CONDITION: Final = "NetworkUnavailable"


def wanted_routes(nodes: Iterable[Node]) -> set[Route]:
    """A route for each range of pod addresses."""
    return {Route(node.metadata.name, cidr) for node in nodes for cidr in node.spec.pod_cidrs}


def is_ours(route: Route, cluster_cidrs: Iterable[str]) -> bool:
    """Whether a route leads to addresses of this cluster's pods; others are never touched."""
    network = ip_network(route.cidr)
    ranges = (ip_network(text) for text in cluster_cidrs)
    return any(one.version == network.version and network.network_address in one for one in ranges)


class RouteController(Controller[str]):
    """The controller `node-route-controller`; its one key stands for all routes."""

    name = "route"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("route_controller")
        self._provider: Routes | None = context.options.cloud_provider.routes
        self._cidrs = context.options.cluster_cidrs
        self._nodes = context.informers.of(Node)
        super().__init__(context.clock, (self._nodes,))
        if self._provider is not None:
            self._nodes.add_handler(lambda _: self.queue.add(""), None, lambda _: self.queue.add(""))

    async def sync(self, key: str) -> Result:
        """Make the routes that are missing, remove those of nodes that are gone, and tell the nodes."""
        if self._provider is None:
            return DONE
        nodes = self._nodes.lister.list()
        wanted = wanted_routes(nodes)
        found = set(await self._provider.list())
        for route in found - wanted:
            if is_ours(route, self._cidrs):
                await self._provider.delete(route)
        missing = sorted(wanted - found, key=lambda route: (route.node, route.cidr))
        done = await asyncio.gather(*(self._create(self._provider, route) for route in missing))
        lost = {route.node for route, made in zip(missing, done, strict=True) if not made}
        for node in nodes:
            await self._tell(node, bool(node.spec.pod_cidrs) and node.metadata.name not in lost)
        return RequeueAfter(PERIOD)

    async def _create(self, provider: Routes, route: Route) -> bool:
        try:
            await provider.create(route)
        except Exception as error:
            text = f"Could not create route for node {route.node} {route.cidr}: {error}"
            log.warning(text)
            node = next((one for one in self._nodes.lister.list() if one.metadata.name == route.node), None)
            if node is not None:
                self._recorder.event(node, WARNING, "FailedToCreateRoute", text)
            return False
        return True

    async def _tell(self, node: Node, routed: bool) -> None:
        status = "False" if routed else "True"
        known = next((one for one in node.status.conditions if one.type == CONDITION), None)
        if known is not None and known.status == status:
            return
        condition = {
            "type": CONDITION,
            "status": status,
            "reason": "RouteCreated" if routed else "NoRouteCreated",
            "message": "RouteController created a route" if routed else "RouteController failed to create a route",
            "lastTransitionTime": format_time(self.clock.now()),
        }
        patch = {"status": {"conditions": [condition]}}
        await self._client.patch(Node, key_of(node), patch, patch_type=PatchType.STRATEGIC, subresource="status")
