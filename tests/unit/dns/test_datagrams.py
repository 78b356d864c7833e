"""Datagrams on real sockets: who is answered, in which order, and what a wait, a failure and a full socket do."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiphys.dns.datagrams import BATCH, Answer, Datagrams
from tiphys.dns.plugin import in_task


async def shout(data: bytes, client: str) -> bytes:
    """The simplest answer; it waits for nothing."""
    return data.upper()


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[Datagrams, socket.socket]]:
    """A socket that answers, and one connected to it."""
    served = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    served.setblocking(False)
    served.bind(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(served.getsockname())
        datagrams = Datagrams(served, answer)
        yield datagrams, client
        datagrams.close()


async def receive(client: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 512), 3)


async def test_a_burst_is_answered_whole_and_in_order() -> None:
    with answering(shout) as (_, client):
        burst = [b"query %d" % number for number in range(2 * BATCH + 5)]
        for each in burst:
            client.send(each)
        assert [await receive(client) for _ in burst] == [each.upper() for each in burst]


async def test_the_loop_has_its_turn_within_a_burst() -> None:
    answered = 0

    async def count(data: bytes, client: str) -> bytes:
        nonlocal answered
        answered += 1
        return b""

    with answering(count) as (_, client):
        for _ in range(2 * BATCH):
            client.send(b"query")
        seen = []
        while answered < 2 * BATCH:
            await asyncio.sleep(0)
            seen.append(answered)
        assert BATCH in seen


@pytest.mark.parametrize("needs_task", [False, True], ids=["without a task", "with asyncio.timeout"])
async def test_one_that_waits_holds_nobody_up(needs_task: bool) -> None:
    opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(data: bytes, client: str) -> bytes:
        if data != b"wait":
            return data
        if needs_task:
            await in_task()
            async with asyncio.timeout(3):
                return await opened
        return await opened + await asyncio.wait_for(asyncio.sleep(0, b", twice"), 3)

    with answering(answer) as (_, client):
        client.send(b"wait")
        client.send(b"quick")
        assert await receive(client) == b"quick"
        opened.set_result(b"waited")
        assert (await receive(client)).startswith(b"waited")


async def test_what_was_waited_for_fails_in_the_answer() -> None:
    broken: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(data: bytes, client: str) -> bytes:
        try:
            return await broken
        except OSError as error:
            return str(error).encode()

    with answering(answer) as (_, client):
        client.send(b"query")
        await asyncio.sleep(0)
        broken.set_exception(OSError("unreachable"))
        assert await receive(client) == b"unreachable"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_a_failure_is_logged_and_the_next_is_answered(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(data: bytes, client: str) -> bytes:
        if data == b"good":
            return data
        if waits:
            await asyncio.sleep(0)
        raise ValueError("broken plugin")

    with answering(answer) as (_, client), caplog.at_level(logging.ERROR):
        client.send(b"bad")
        client.send(b"good")
        assert await receive(client) == b"good"
        for _ in range(5):  # turns of the loop, more than it takes to see the task's error
            await asyncio.sleep(0)
        assert caplog.messages == ["a query could not be answered: ValueError('broken plugin')"]


async def test_closing_cancels_what_waits(caplog: pytest.LogCaptureFixture) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(data: bytes, client: str) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("not reached")

    with answering(answer) as (datagrams, client):
        client.send(b"query")
        await begun.wait()
        await asyncio.sleep(0)
        datagrams.close()
        await asyncio.wait_for(cancelled.wait(), 3)
        assert not caplog.records


async def test_an_answer_after_closing_goes_nowhere() -> None:
    with answering(shout) as (datagrams, client):
        client.send(b"query")
        datagrams.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError):
            client.recv(512)


async def test_answers_the_kernel_does_not_take_wait_in_order(tmp_path: Path) -> None:
    # A local socket takes some ten datagrams until its owner reads: here a sender really has to wait.
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        served = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        served.setblocking(False)
        client.setblocking(False)
        served.bind(str(tmp_path / "server"))
        client.bind(str(tmp_path / "client"))
        client.connect(str(tmp_path / "server"))
        datagrams = Datagrams(served, shout)
        queries = [b"query %d" % number for number in range(100)]
        for each in queries:
            await loop.sock_sendall(client, each)
        assert [await receive(client) for _ in queries] == [each.upper() for each in queries]
        datagrams.close()
