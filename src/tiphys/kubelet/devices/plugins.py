"""The plugins' side: they register on `device-plugins/kubelet.sock`, and are listened to on their own sockets.

```
 plugin ── Register(resource, its socket) ──► kubelet.sock
 kubelet ── ListAndWatch ──► its socket      each list replaces the one before; at the end all of it is ill
```
A plugin learns that the kubelet began anew from its own socket being removed, or kubelet.sock being made.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.api.deviceplugin import api_pb2_grpc
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.kubelet.plugins.registry import LOCAL, Plugin, RegistrationError
from tiphys.kubelet.resources import is_extended_resource

log = get_logger(__name__)

VERSION: Final = "v1beta1"
SOCKET: Final = "kubelet.sock"
MESSAGE: Final = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)
CONNECT: Final = 10.0  # seconds a plugin has to begin serving after it has registered
ALLOCATE: Final = 60.0  # seconds; devices may have to be made ready

Told = Callable[["Endpoint", plugin.ListAndWatchResponse | None], None]


class Endpoint:
    """One plugin that serves one resource."""

    def __init__(self, resource: str, socket: Path, options: plugin.DevicePluginOptions) -> None:
        self.resource = resource
        self.options = options
        self._channel = grpc.aio.insecure_channel(f"unix://{socket}", options=(*LOCAL, *MESSAGE))
        self._stub = api_pb2_grpc.DevicePluginStub(self._channel)

    async def listen(self, told: Told) -> None:
        """Hand on each list of the plugin, and None when it has gone."""
        try:
            stream = self._stub.ListAndWatch(plugin.Empty(), wait_for_ready=True)
            async for answer in stream:
                told(self, answer)
        except grpc.aio.AioRpcError as error:
            log.info("the device plugin of %s has gone: %s", self.resource, error.details())
        finally:
            told(self, None)
            await self._channel.close()

    async def read_options(self) -> None:
        """Ask the plugin for its options, as those do that came through the plugin registry."""
        self.options = await self._stub.GetDevicePluginOptions(plugin.Empty(), timeout=CONNECT, wait_for_ready=True)

    async def preferred(self, free: list[str], must: list[str], count: int) -> list[str]:
        """The plugin's choice of `count` devices; [] when it has none."""
        one = plugin.ContainerPreferredAllocationRequest(
            available_device_ids=free, must_include_device_ids=must, allocation_size=count
        )
        request = plugin.PreferredAllocationRequest(container_requests=[one])
        answer = await self._stub.GetPreferredAllocation(request, timeout=ALLOCATE)
        return list(answer.container_responses[0].device_ids) if answer.container_responses else []

    async def allocate(self, devices: list[str]) -> plugin.ContainerAllocateResponse:
        """What to do in the container that gets the devices. Raises AioRpcError; ValueError for an empty answer."""
        one = plugin.ContainerAllocateRequest(devices_ids=devices)
        answer = await self._stub.Allocate(plugin.AllocateRequest(container_requests=[one]), timeout=ALLOCATE)
        if not answer.container_responses:
            raise ValueError("no containers return in allocation response")
        return answer.container_responses[0]

    async def before_start(self, devices: list[str]) -> None:
        """Let the plugin prepare the devices of a container that is about to start. Raises AioRpcError."""
        await self._stub.PreStartContainer(plugin.PreStartContainerRequest(devices_ids=devices), timeout=ALLOCATE)

    async def close(self) -> None:
        await self._channel.close()


class Plugins(api_pb2_grpc.RegistrationServicer):
    """The plugins that are there, by resource. Also takes those that the plugin registry finds (DevicePlugin)."""

    TYPE: Final = "DevicePlugin"

    def __init__(self, directory: Path, told: Told) -> None:
        self._directory = directory
        self._told = told
        self._tasks: Supervised | None = None
        self.endpoints: dict[str, Endpoint] = {}

    async def run(self, tasks: Supervised) -> None:
        """Serve registrations until cancelled; plugins are listened to in `tasks`."""
        self._tasks = tasks
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            with suppress(OSError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()  # its plugin sees that and registers again
        server = grpc.aio.server()
        api_pb2_grpc.add_RegistrationServicer_to_server(self, server)
        server.add_insecure_port(f"unix://{self._directory / SOCKET}")
        await server.start()
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(None)

    async def Register(self, request: plugin.RegisterRequest, context: Any) -> plugin.Empty:
        try:
            check(request.version, request.resource_name)
        except RegistrationError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        socket = self._directory / request.endpoint
        await self._begin(Endpoint(request.resource_name, socket, request.options))
        return plugin.Empty()

    async def register(self, plugin_found: Plugin) -> None:
        for version in plugin_found.versions[:1] or ("",):
            check(version, plugin_found.name)
        endpoint = Endpoint(plugin_found.name, Path(plugin_found.endpoint), plugin.DevicePluginOptions())
        try:
            await endpoint.read_options()
        except grpc.aio.AioRpcError as error:
            await endpoint.close()
            raise RegistrationError(f"failed to get device plugin options: {error.details()}") from error
        await self._begin(endpoint)

    async def deregister(self, plugin_found: Plugin) -> None:
        endpoint = self.endpoints.get(plugin_found.name)
        if endpoint is not None:
            await endpoint.close()

    async def _begin(self, endpoint: Endpoint) -> None:
        before = self.endpoints.get(endpoint.resource)
        self.endpoints[endpoint.resource] = endpoint
        if before is not None:
            await before.close()
        log.info("device plugin of %s is registered", endpoint.resource)
        assert self._tasks is not None
        self._tasks.spawn(lambda: endpoint.listen(self._heard), name=f"devices of {endpoint.resource}")

    def _heard(self, endpoint: Endpoint, answer: plugin.ListAndWatchResponse | None) -> None:
        if self.endpoints.get(endpoint.resource) is not endpoint:
            return  # another one has taken its place
        if answer is None:
            del self.endpoints[endpoint.resource]
        self._told(endpoint, answer)


def check(version: str, resource: str) -> None:
    """Raises RegistrationError when the kubelet does not take such a plugin."""
    if version != VERSION:
        raise RegistrationError(
            f'requested API version "{version}" is not supported by kubelet. Supported version is ["{VERSION}"]'
        )
    if not is_extended_resource(resource):
        raise RegistrationError(f'the ResourceName "{resource}" is invalid')
