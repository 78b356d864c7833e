"""A small driver of dynamic resource allocation: its devices are environment variables in a CDI file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from tiphys.api.dra import dra_pb2 as dra
from tiphys.api.dra import dra_pb2_grpc
from tiphys.api.pluginregistration import api_pb2 as registration
from tiphys.api.pluginregistration import api_pb2_grpc

KIND = "example.test/toy"


class ToyDriver(dra_pb2_grpc.DRAPluginServicer, api_pb2_grpc.RegistrationServicer):
    """Registered as `name`. `refuse`: what the next calls are answered with."""

    def __init__(self, name: str, cdi: Path) -> None:
        self.name = name
        self.cdi = cdi
        self.prepared: list[str] = []
        self.unprepared: list[str] = []
        self.refuse: list[str] = []
        self.statuses: list[registration.RegistrationStatus] = []

    async def GetInfo(self, request: Any, context: Any) -> registration.PluginInfo:
        return registration.PluginInfo(type="DRAPlugin", name=self.name, supported_versions=["v1.DRAPlugin"])

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> registration.RegistrationStatusResponse:
        self.statuses.append(request)
        return registration.RegistrationStatusResponse()

    async def NodePrepareResources(self, request: Any, context: Any) -> dra.NodePrepareResourcesResponse:
        answer = dra.NodePrepareResourcesResponse()
        for claim in request.claims:
            if self.refuse:
                answer.claims[claim.uid].error = self.refuse.pop(0)
                continue
            self.prepared.append(claim.name)
            edits = {"env": [f"TOY={claim.name}"]}
            document = {"cdiVersion": "0.6.0", "kind": KIND, "devices": [{"name": claim.uid, "containerEdits": edits}]}
            (self.cdi / f"toy-{claim.uid}.json").write_text(json.dumps(document))
            answer.claims[claim.uid].devices.add(
                request_names=["req"], pool_name="pool", device_name="toy", cdi_device_ids=[f"{KIND}={claim.uid}"]
            )
        return answer

    async def NodeUnprepareResources(self, request: Any, context: Any) -> dra.NodeUnprepareResourcesResponse:
        answer = dra.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            if self.refuse:
                answer.claims[claim.uid].error = self.refuse.pop(0)
                continue
            self.unprepared.append(claim.name)
            (self.cdi / f"toy-{claim.uid}.json").unlink(missing_ok=True)
            answer.claims[claim.uid].error = ""
        return answer


@asynccontextmanager
async def serving(driver: ToyDriver, socket: Path) -> AsyncIterator[None]:
    """The driver on a socket of the kubelet's registry."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    server = grpc.aio.server()
    dra_pb2_grpc.add_DRAPluginServicer_to_server(driver, server)
    api_pb2_grpc.add_RegistrationServicer_to_server(driver, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
