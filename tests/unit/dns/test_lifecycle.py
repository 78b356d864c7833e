"""A changed Corefile, and the time between being told to stop and stopping."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.unit.dns.test_server import COREFILE, SVC, Caches, ask, fill, texts
from tiphys.base.clock import FakeClock
from tiphys.dns import DnsServer

LOCAL = COREFILE.replace("FORWARD", "")


@asynccontextmanager
async def running(config: Path | str) -> AsyncIterator[tuple[DnsServer, FakeClock, asyncio.Task[None]]]:
    caches, clock = Caches(), FakeClock()
    server = DnsServer(config, None, caches, clock=clock, hosts=["127.0.0.1"])  # type: ignore[arg-type]
    fill(caches)
    task = asyncio.ensure_future(server.run())
    await server.ready.wait()
    yield server, clock, task
    task.cancel()
    await asyncio.wait([task])


async def test_a_changed_corefile_forgets_what_was_kept(tmp_path: Path) -> None:
    config = tmp_path / "Corefile"
    config.write_text(LOCAL.replace("errors", "errors\n    reload 10s 0s"))
    async with running(config) as (server, clock, _):
        for _ in range(2):
            assert texts((await ask(server, f"web.{SVC}")).rr) == ["A 30 10.96.0.7"]
        config.write_text(LOCAL.replace("errors", "errors\n    reload 10s 0s").replace("ttl 30", "ttl 7"))
        await clock.advance(10)
        for _ in range(2):
            assert texts((await ask(server, f"web.{SVC}")).rr) == ["A 7 10.96.0.7"]


async def test_lameduck_answers_until_its_time_is_over() -> None:
    corefile = LOCAL.replace("errors", "errors\n    health 127.0.0.1:0 {\n        lameduck 5s\n    }")
    async with running(corefile) as (server, clock, task):
        task.cancel()
        for _ in range(2):
            assert texts((await ask(server, f"web.{SVC}")).rr) == ["A 30 10.96.0.7"]
        assert not task.done()
        await clock.advance(5)
        await asyncio.wait([task])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(server.addresses[0])  # nobody has it any more
