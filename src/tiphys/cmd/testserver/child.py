"""One cluster of a test: the process, and the conversation with whoever holds the other end of its socket.

A line of JSON each way. The first answer says where the cluster is, or why there is none; then
{"op": "namespace", "prefix": …} → {"name": …}, {"op": "reset"} → {}. An answer may be {"error": …} instead. The end of
the socket is the end of the cluster.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson
import setproctitle
import uvloop

from tiphys.base.clock import SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.cmd.testserver.cluster import ClusterServer
from tiphys.cmd.testserver.identity import Identity
from tiphys.machinery.errors import StatusError
from tiphys.store import StoreError

log = get_logger(__name__)

CONTROLLERS: Final = "tiphys.cmd.testserver.controllers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a test can choose about its cluster; see `tiphys.testing.cluster`."""

    directory: Path
    datastore: str = "memory"
    controllers: tuple[str, ...] = ("*",)
    runtime_config: dict[str, bool]

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """From the message of the test process."""
        return cls(
            directory=Path(found["directory"]),
            datastore=found["datastore"],
            controllers=tuple(found["controllers"]),
            runtime_config=found["runtime_config"],
        )


def serve(settings: Settings, channel: socket.socket) -> None:
    """Be the cluster until the other end of `channel` is closed."""
    setproctitle.setproctitle(f"tiphys: test cluster {settings.directory.name}")
    gc.set_threshold(50_000, 20, 50)  # objects decoded by the controllers live long
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, channel))


async def _serve(settings: Settings, channel: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=channel)
    try:
        identity = Identity.create(settings.directory)
        if settings.controllers not in ((), ("*",)):
            importlib.import_module(CONTROLLERS).check(settings.controllers)
        cluster = ClusterServer(identity, settings.datastore, settings.runtime_config)
    except (OSError, ValueError) as error:
        await _answer(writer, {"error": str(error)})
        return
    try:
        async with Supervised(SystemClock()) as tasks:
            try:
                facts = await cluster.start()
            except (OSError, StoreError, ValueError) as error:
                await _answer(writer, {"error": str(error)})
                return
            await _answer(writer, facts)
            if settings.controllers:
                tasks.spawn(lambda: _control(identity, cluster, settings.controllers), name="controllers", restart=True)
            while line := await reader.readline():
                await _answer(writer, await _obey(cluster, orjson.loads(line)))
    finally:
        # The socket stays open: its end tells the test that this process has ended.
        await cluster.stop()


async def _answer(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(orjson.dumps(answer) + b"\n")
    await writer.drain()


async def _obey(cluster: ClusterServer, request: dict[str, Any]) -> dict[str, Any]:
    try:
        match request["op"]:
            case "reset":
                await cluster.reset()
                return {}
            case "namespace":
                return {"name": await cluster.new_namespace(request["prefix"])}
            case other:
                return {"error": f"unknown request {other}"}
    except (StatusError, StoreError) as error:
        return {"error": str(error)}


async def _control(identity: Identity, cluster: ClusterServer, names: tuple[str, ...]) -> None:
    # The import takes a quarter of a second in the first cluster; requests are answered meanwhile.
    module = await asyncio.to_thread(importlib.import_module, CONTROLLERS)
    await module.run(identity, cluster.url, names)
