"""The drivers on this node: registered through `plugins_registry`, asked on their own sockets.

A driver that is gone for a while takes its ResourceSlices of this node with it, so that nothing is scheduled to devices
that nobody can prepare. https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio

from tiphys.api.dra import dra_pb2 as dra
from tiphys.api.resource.v1 import ResourceSlice
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Client
from tiphys.client.endpoint import endpoint_of
from tiphys.kubelet.plugins.registry import LOCAL, Plugin, RegistrationError
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

# What a driver says it speaks → the service's name on the wire; the messages are the same.
SERVICES: Final = {
    "v1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
    "v1beta1.DRAPlugin": "k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
}
PATIENCE: Final = 45.0  # seconds for a driver's answer
WIPING_DELAY: Final = 30.0  # seconds without a driver before its slices go


class DriverError(Exception):
    """A driver is not there, or says no."""


class Driver:
    """One driver's socket."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        service = next(SERVICES[version] for version in SERVICES if version in plugin.versions)
        self._channel = grpc.aio.insecure_channel(f"unix://{plugin.endpoint}", options=LOCAL)
        self._prepare = self._method(service, "NodePrepareResources", dra.NodePrepareResourcesResponse)
        self._unprepare = self._method(service, "NodeUnprepareResources", dra.NodeUnprepareResourcesResponse)

    def _method(self, service: str, name: str, answer: Any) -> Any:
        return self._channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    async def prepare(self, claims: Sequence[dra.Claim]) -> dict[str, dra.NodePrepareResourceResponse]:
        """Make devices ready; an answer a claim, by uid. Raises DriverError."""
        answer = await self._ask(self._prepare, dra.NodePrepareResourcesRequest(claims=claims), "NodePrepareResources")
        for claim in claims:
            if claim.uid not in answer.claims:
                raise DriverError("NodePrepareResources left out some ResourceClaims")
            if answer.claims[claim.uid].error:
                said = answer.claims[claim.uid].error
                raise DriverError(f"NodePrepareResources failed for ResourceClaim {claim.name}: {said}")
        return dict(answer.claims)

    async def unprepare(self, claims: Sequence[dra.Claim]) -> None:
        """Take devices back. Raises DriverError."""
        request = dra.NodeUnprepareResourcesRequest(claims=claims)
        answer = await self._ask(self._unprepare, request, "NodeUnprepareResources")
        for claim in claims:
            if claim.uid in answer.claims and answer.claims[claim.uid].error:
                said = answer.claims[claim.uid].error
                raise DriverError(f"NodeUnprepareResources failed for ResourceClaim {claim.name}: {said}")

    async def _ask(self, method: Any, request: Any, name: str) -> Any:
        try:
            return await method(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise DriverError(f"{name} of DRA driver {self.plugin.name} failed: {error.details()}") from error

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


class Drivers:
    """A handler of the plugin registry."""

    TYPE: Final = "DRAPlugin"

    def __init__(self, client: Client, clock: Clock, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._node_name = node_name
        self._drivers: dict[str, Driver] = {}
        self._gone: dict[str, float] = {}  # driver → when its slices go (monotonic)
        self._changed = asyncio.Event()

    def named(self, name: str) -> Driver:
        """A driver. Raises DriverError when it is not registered."""
        found = self._drivers.get(name)
        if found is None:
            raise DriverError(f"DRA driver {name} is not registered")
        return found

    async def register(self, plugin: Plugin) -> None:
        """See PluginHandler."""
        if not set(plugin.versions) & set(SERVICES):
            spoken, known = ", ".join(plugin.versions), ", ".join(SERVICES)
            raise RegistrationError(f"DRA driver {plugin.name} speaks {spoken}; known here: {known}")
        before = self._drivers.get(plugin.name)
        self._drivers[plugin.name] = Driver(plugin)
        self._gone.pop(plugin.name, None)
        if before is not None:
            await before.close()

    async def deregister(self, plugin: Plugin) -> None:
        """See PluginHandler."""
        current = self._drivers.get(plugin.name)
        if current is None or current.plugin.endpoint != plugin.endpoint:
            return  # another has taken its place
        del self._drivers[plugin.name]
        await current.close()
        self._gone[plugin.name] = self._clock.monotonic() + WIPING_DELAY
        self._changed.set()

    async def run(self) -> None:
        """Wipe the slices of drivers that stay away, until cancelled. At start every driver is one that is away."""
        for name in await self._seen() - self._drivers.keys():
            self._gone.setdefault(name, self._clock.monotonic() + WIPING_DELAY)
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            for name in [name for name, due in self._gone.items() if due <= now]:
                await self._wipe(name)
                self._gone.pop(name, None)
            if self._gone:
                await self._clock.sleep(max(0.1, min(self._gone.values()) - self._clock.monotonic()))
            else:
                await self._changed.wait()

    async def _seen(self) -> set[str]:
        """The drivers that have ResourceSlices of this node."""
        slices = await self._client.list(ResourceSlice, field_selector=f"spec.nodeName={self._node_name}")
        return {each.spec.driver for each in slices.items}

    async def _wipe(self, driver: str) -> None:
        log.info("DRA driver %s stays away: its ResourceSlices go", driver)
        query = {"fieldSelector": f"spec.driver={driver},spec.nodeName={self._node_name}"}
        try:
            await self._client.request_json("DELETE", endpoint_of(ResourceSlice).path(), query=query)
        except (StatusError, ApiConnectionError) as error:
            log.warning("removing the ResourceSlices of %s failed: %s", driver, error)
