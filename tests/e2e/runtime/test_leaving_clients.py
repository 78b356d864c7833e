"""Clients that go away while the runtime is about what they asked for: nothing of it is lost."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from grpc.aio import AioRpcError

from tests.e2e.runtime.harness import Client, until
from tiphys.api.cri import api_pb2 as cri
from tiphys.machinery.streaming import http, websocket
from tiphys.runtime.containers import Containers
from tiphys.runtime.exec import Execs


class Held:
    """Work of the runtime that has been done and whose result is held back until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.done = threading.Event()
        self._released = threading.Event()
        work: Callable[..., Any] = getattr(owner, name)

        def held(*args: Any) -> Any:
            result = work(*args)
            self.done.set()
            self._released.wait(20)
            return result

        monkeypatch.setattr(owner, name, held)

    def release(self) -> None:
        self._released.set()


def descriptors() -> Counter[str]:
    """Pipes, terminals and processes this process (the runtime's too) has open."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith(("pipe:", "/dev/ptmx", "/dev/pts/ptmx", "anon_inode:[pidfd]")):
            found[target] += 1
    return found


def zombies() -> list[int]:
    """Children of this process that nobody has reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue
        if fields.split()[0] == "Z" and int(fields.split()[1]) == os.getpid():
            found.append(int(name.split()[0]))
    return found


async def leave_while_it_starts(client: Client, held: Held, container: str, *argv: str, **streams: bool) -> None:
    """Open an exec and go away; it has been launched when the runtime is done with the connection."""
    request = cri.ExecRequest(container_id=container, cmd=argv, stdout=True, **streams)
    parts = urlsplit((await client.runtime.Exec(request)).url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    asked = websocket.request(parts.path, parts.netloc, ["v4.channel.k8s.io"])
    writer.write(asked.encode())
    websocket.confirm(asked, http.parse_response(await http.read_head(reader)))
    await until(held.done.is_set)
    writer.write_eof()
    await reader.read()
    writer.close()
    held.release()


@pytest.mark.parametrize("tty", [pytest.param(False, id="pipes"), pytest.param(True, id="terminal")])
async def test_an_exec_whose_client_leaves_while_it_starts(
    cri_client: Client, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    container = await cri_client.run(await cri_client.sandbox(), "sleep", "1000")
    before = descriptors()
    held = Held(monkeypatch, Execs, "_launch")
    await leave_while_it_starts(cri_client, held, container, "cat", stdin=True, tty=tty)
    await until(lambda: not zombies() and not descriptors() - before)  # its input ends, or its terminal hangs up
    assert b"cat" not in (await cri_client.exec(container, "ps", "-o", "comm")).stdout


async def test_a_container_with_an_exec_whose_client_left_can_be_stopped(
    cri_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await cri_client.run(await cri_client.sandbox(), "sleep", "1000")
    before = descriptors()
    held = Held(monkeypatch, Execs, "_launch")
    await leave_while_it_starts(cri_client, held, container, "sleep", "777")
    assert b"777" in (await cri_client.exec(container, "ps")).stdout
    async with asyncio.timeout(20):
        await cri_client.stop(container)
    await until(lambda: not zombies() and not descriptors() - before)


async def test_an_exec_sync_whose_caller_leaves_while_it_starts_is_killed(
    cri_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await cri_client.run(await cri_client.sandbox(), "sleep", "1000")
    before = descriptors()
    held = Held(monkeypatch, Execs, "_launch")
    call = cri_client.runtime.ExecSync(cri.ExecSyncRequest(container_id=container, cmd=["sleep", "777"]))
    waiting = asyncio.ensure_future(asyncio.wait_for(call, 20))
    await until(held.done.is_set)
    waiting.cancel()
    await asyncio.wait({waiting})
    await cri_client.status(container)  # the runtime hears of both in their order
    held.release()
    await until(lambda: not zombies() and not descriptors() - before)
    assert b"777" not in (await cri_client.exec(container, "ps")).stdout


async def test_a_container_whose_starter_leaves_is_watched(cri_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    container = await cri_client.create(await cri_client.sandbox(), "sleep", "1000")
    held = Held(monkeypatch, Containers, "_start")
    starting = asyncio.ensure_future(asyncio.wait_for(cri_client.start(container), 20))
    await until(held.done.is_set)
    starting.cancel()
    await asyncio.wait({starting})
    await cri_client.status(container)
    held.release()
    async with asyncio.timeout(20):
        await cri_client.stop(container)
    assert (await cri_client.status(container)).exit_code == 137


async def test_a_container_ends_while_commands_enter_it(cri_client: Client) -> None:
    sandbox = await cri_client.sandbox()
    refused = 0

    async def commands(container: str) -> None:
        nonlocal refused
        while True:
            try:
                await cri_client.exec(container, "true")
            except AioRpcError:
                refused += 1
                return

    for number in range(12):
        container = await cri_client.run(sandbox, "sleep", "1000", name=f"entered-{number}")
        entering = [asyncio.create_task(commands(container)) for _ in range(4)]
        await asyncio.sleep(0.05 + 0.01 * number)
        async with asyncio.timeout(20):
            await cri_client.stop(container)
        await asyncio.gather(*entering)
    assert refused == 12 * 4
    await until(lambda: not zombies())
