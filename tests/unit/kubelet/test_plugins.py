"""Plugins register when their socket appears, again when it is made anew, and go with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from tiphys.api.pluginregistration import api_pb2 as registration
from tiphys.api.pluginregistration import api_pb2_grpc
from tiphys.base.clock import SystemClock
from tiphys.kubelet.plugins.registry import Plugin, PluginRegistry, RegistrationError


class Handler:
    """Remembers; refuses plugins named `bad`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    async def register(self, plugin: Plugin) -> None:
        if plugin.name == "bad":
            raise RegistrationError("not this one")
        self.seen.append(("register", plugin.name))

    async def deregister(self, plugin: Plugin) -> None:
        self.seen.append(("deregister", plugin.name))


class Registrar(api_pb2_grpc.RegistrationServicer):
    def __init__(self, name: str, kind: str = "Kind") -> None:
        self.info = registration.PluginInfo(type=kind, name=name, supported_versions=["v1"])
        self.told: list[str] = []

    async def GetInfo(self, request: Any, context: Any) -> registration.PluginInfo:
        return self.info

    async def NotifyRegistrationStatus(self, request: Any, context: Any) -> registration.RegistrationStatusResponse:
        self.told.append(request.error if not request.plugin_registered else "registered")
        return registration.RegistrationStatusResponse()


async def serve(registrar: Registrar, path: Path) -> grpc.aio.Server:
    server = grpc.aio.server()
    api_pb2_grpc.add_RegistrationServicer_to_server(registrar, server)
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    return server


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come")


async def in_directory(directory: Path, handler: Handler, test: Callable[[], Awaitable[None]]) -> None:
    running = asyncio.ensure_future(PluginRegistry(directory, {"Kind": handler}, SystemClock()).run())
    try:
        await test()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_plugin_comes_and_goes_with_its_socket(tmp_path: Path) -> None:
    handler, registrar = Handler(), Registrar("good")
    below = tmp_path / "below"
    below.mkdir()
    socket = below / "x.sock"

    async def test() -> None:
        server = await serve(registrar, socket)
        await until(lambda: registrar.told == ["registered"])
        assert handler.seen == [("register", "good")]
        await server.stop(None)
        socket.unlink(missing_ok=True)
        await until(lambda: handler.seen[-1] == ("deregister", "good"))
        again = await serve(registrar, socket)
        await until(lambda: handler.seen[-1] == ("register", "good"))
        await again.stop(None)

    await in_directory(tmp_path, handler, test)


async def test_a_plugin_is_told_why_it_is_refused(tmp_path: Path) -> None:
    handler, bad, other = Handler(), Registrar("bad"), Registrar("other", "Unknown")
    servers = [await serve(bad, tmp_path / "bad.sock"), await serve(other, tmp_path / "other.sock")]

    async def test() -> None:
        await until(lambda: bool(bad.told and other.told))

    await in_directory(tmp_path, handler, test)
    assert bad.told[0] == "not this one"
    assert other.told[0].startswith("no handler registered for plugin type: Unknown at socket")
    assert handler.seen == []
    for server in servers:
        await server.stop(None)
