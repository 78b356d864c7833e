"""A device plugin as vendors write them: it serves, registers, and again when its socket goes. Calls are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.api.deviceplugin import api_pb2_grpc

NO_PROXY = (("grpc.enable_http_proxy", 0),)


class Plugin(api_pb2_grpc.DevicePluginServicer):
    """Offers `devices` (id → well) of `resource`; `response` is what a container gets."""

    def __init__(self, resource: str, devices: dict[str, bool], response: plugin.ContainerAllocateResponse) -> None:
        self.resource = resource
        self.devices = devices
        self.response = response
        self.options = plugin.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)
        self.calls: list[tuple[str, list[str]]] = []
        self.listened_to = 0  # how often a kubelet began to listen
        self._changed = asyncio.Condition()

    async def set_health(self, device: str, well: bool) -> None:
        async with self._changed:
            self.devices[device] = well
            self._changed.notify_all()

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> plugin.DevicePluginOptions:
        return self.options

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[plugin.ListAndWatchResponse]:
        self.listened_to += 1
        while True:
            async with self._changed:
                listed = [
                    plugin.Device(ID=name, health="Healthy" if well else "Unhealthy")
                    for name, well in self.devices.items()
                ]
                yield plugin.ListAndWatchResponse(devices=listed)
                await self._changed.wait()

    async def GetPreferredAllocation(self, request: Any, context: Any) -> plugin.PreferredAllocationResponse:
        """The last ones first."""
        answers = []
        for one in request.container_requests:
            self.calls.append(("prefer", list(one.available_device_ids)))
            chosen = sorted(one.available_device_ids, reverse=True)[: one.allocation_size]
            answers.append(plugin.ContainerPreferredAllocationResponse(device_ids=chosen))
        return plugin.PreferredAllocationResponse(container_responses=answers)

    async def Allocate(self, request: Any, context: Any) -> plugin.AllocateResponse:
        answers = []
        for one in request.container_requests:
            self.calls.append(("allocate", sorted(one.devices_ids)))
            answer = plugin.ContainerAllocateResponse()
            answer.CopyFrom(self.response)
            answer.envs["DEVICES"] = ",".join(sorted(one.devices_ids))
            answers.append(answer)
        return plugin.AllocateResponse(container_responses=answers)

    async def PreStartContainer(self, request: Any, context: Any) -> plugin.PreStartContainerResponse:
        self.calls.append(("start", sorted(request.devices_ids)))
        return plugin.PreStartContainerResponse()

    @asynccontextmanager
    async def serving(self, directory: Path) -> AsyncIterator[None]:
        """Serve beside kubelet.sock and be registered, also with a kubelet that comes later."""
        keeper = asyncio.create_task(self._keep(directory))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep(self, directory: Path) -> None:
        socket = directory / f"{self.resource.replace('/', '-')}.sock"
        while True:
            if not (directory / "kubelet.sock").exists():
                await asyncio.sleep(0.02)
                continue
            server = grpc.aio.server()
            api_pb2_grpc.add_DevicePluginServicer_to_server(self, server)
            server.add_insecure_port(f"unix://{socket}")
            await server.start()
            try:
                await register(directory, self.resource, socket.name, self.options)
                await _gone(socket)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
            finally:
                await server.stop(None)


async def _gone(path: Path) -> None:
    while path.exists():  # noqa: ASYNC110, ASYNC240 - a plugin watches its file
        await asyncio.sleep(0.02)


async def register(
    directory: Path, resource: str, endpoint: str, options: plugin.DevicePluginOptions, version: str = "v1beta1"
) -> None:
    """Register as a plugin does. Raises AioRpcError."""
    async with grpc.aio.insecure_channel(f"unix://{directory}/kubelet.sock", options=NO_PROXY) as channel:
        request = plugin.RegisterRequest(version=version, endpoint=endpoint, resource_name=resource, options=options)
        await api_pb2_grpc.RegistrationStub(channel).Register(request, timeout=10)
