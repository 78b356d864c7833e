"""A small CSI driver that really mounts: a volume is a directory, staged and published by bind mounts.

It registers as drivers do, by a socket below the kubelet's `plugins_registry`, and keeps every call in
`calls` as (method, request).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tiphys.api.csi import csi_pb2 as csi
from tiphys.api.csi import csi_pb2_grpc
from tiphys.api.pluginregistration import api_pb2 as registration
from tiphys.api.pluginregistration import api_pb2_grpc
from tiphys.kubelet.mounts import bind, unmount

RPC = csi.NodeServiceCapability.RPC
Capabilities = tuple[csi.NodeServiceCapability.RPC.Type, ...]
ALL: Capabilities = (RPC.STAGE_UNSTAGE_VOLUME, RPC.EXPAND_VOLUME, RPC.GET_VOLUME_STATS)


class Driver(csi_pb2_grpc.NodeServicer, api_pb2_grpc.RegistrationServicer):
    """The driver `name`; its volumes are in `data`. `failures`: a method's next answers, by method."""

    def __init__(self, name: str, data: Path, capabilities: Capabilities = ALL) -> None:
        self.name = name
        self.data = data
        self.capabilities = capabilities
        self.calls: list[tuple[str, Any]] = []
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        self.endpoint = ""
        self.statuses: list[registration.RegistrationStatus] = []

    def methods(self) -> list[str]:
        """The calls about volumes so far, by name."""
        return [method for method, _ in self.calls]

    def last(self, method: str) -> Any:
        return next(request for name, request in reversed(self.calls) if name == method)

    async def _note(self, method: str, request: Any, context: Any) -> None:
        self.calls.append((method, request))
        if failing := self.failures.get(method):
            await context.abort(failing.pop(0), f"{method} is told to fail")

    # -- registration --------------------------------------------------------------------------------

    async def GetInfo(self, request: Any, context: Any) -> registration.PluginInfo:
        return registration.PluginInfo(
            type="CSIPlugin", name=self.name, endpoint=self.endpoint, supported_versions=["1.0.0"]
        )

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> registration.RegistrationStatusResponse:
        self.statuses.append(request)
        return registration.RegistrationStatusResponse()

    # -- the node service ----------------------------------------------------------------------------

    async def NodeGetInfo(self, request: Any, context: Any) -> csi.NodeGetInfoResponse:
        topology = csi.Topology(segments={f"topology.{self.name}/rack": "r1"})
        return csi.NodeGetInfoResponse(node_id="the-node", max_volumes_per_node=7, accessible_topology=topology)

    async def NodeGetCapabilities(self, request: Any, context: Any) -> csi.NodeGetCapabilitiesResponse:
        found = [csi.NodeServiceCapability(rpc=RPC(type=one)) for one in self.capabilities]
        return csi.NodeGetCapabilitiesResponse(capabilities=found)

    async def NodeStageVolume(self, request: Any, context: Any) -> csi.NodeStageVolumeResponse:
        await self._note("stage", request, context)
        source = self._source(request.volume_id)
        if not request.volume_capability.HasField("block"):
            bind(source, Path(request.staging_target_path))
        return csi.NodeStageVolumeResponse()

    async def NodeUnstageVolume(self, request: Any, context: Any) -> csi.NodeUnstageVolumeResponse:
        await self._note("unstage", request, context)
        unmount(Path(request.staging_target_path))
        return csi.NodeUnstageVolumeResponse()

    async def NodePublishVolume(self, request: Any, context: Any) -> csi.NodePublishVolumeResponse:
        await self._note("publish", request, context)
        self._mount(request)
        return csi.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(self, request: Any, context: Any) -> csi.NodeUnpublishVolumeResponse:
        await self._note("unpublish", request, context)
        unmount(Path(request.target_path))
        return csi.NodeUnpublishVolumeResponse()

    async def NodeExpandVolume(self, request: Any, context: Any) -> csi.NodeExpandVolumeResponse:
        await self._note("expand", request, context)
        return csi.NodeExpandVolumeResponse(capacity_bytes=request.capacity_range.required_bytes)

    async def NodeGetVolumeStats(self, request: Any, context: Any) -> csi.NodeGetVolumeStatsResponse:
        usage = csi.VolumeUsage(total=1000, used=400, available=600, unit=csi.VolumeUsage.BYTES)
        return csi.NodeGetVolumeStatsResponse(usage=[usage])

    # -- mounts --------------------------------------------------------------------------------------

    def _source(self, volume: str) -> Path:
        source = self.data / volume
        source.mkdir(parents=True, exist_ok=True)
        return source

    def _mount(self, request: csi.NodePublishVolumeRequest) -> None:
        target = Path(request.target_path)
        if request.volume_capability.HasField("block"):
            target.touch()
            bind(request.volume_context["device"], target)
        elif not target.exists():
            target.mkdir()
            bind(request.staging_target_path or self._source(request.volume_id), target)

    # -- being there ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self, kubelet_root: Path) -> AsyncIterator[None]:
        """Serve and register, as long as the context lasts."""
        own = kubelet_root / "plugins" / self.name / "csi.sock"
        registrar = kubelet_root / "plugins_registry" / f"{self.name}-reg.sock"
        self.endpoint = str(own)
        servers = []
        for path, add in (
            (own, csi_pb2_grpc.add_NodeServicer_to_server),
            (registrar, api_pb2_grpc.add_RegistrationServicer_to_server),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            server = grpc.aio.server()
            add(self, server)
            server.add_insecure_port(f"unix://{path}")
            await server.start()
            servers.append(server)
        try:
            yield
        finally:
            for server in servers:
                await server.stop(None)
            registrar.unlink(missing_ok=True)
