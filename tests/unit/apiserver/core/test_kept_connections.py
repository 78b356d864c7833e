"""Connections to other servers are used again, and a new one is made when the kept one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tiphys.apiserver.http.pool import MOST_IDLE, Connections
from tiphys.apiserver.http.upstream import Exchange, Target


class Server:
    """Answers every request with the number of its connection; `ends_after` requests it closes, without a word."""

    def __init__(self) -> None:
        self.connections = 0
        self.ends_after = 1000
        self.extra = ""
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        number, answered = str(self.connections), 0
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            if b"ontent-Length: " in head:
                await reader.readexactly(int(head.split(b"ontent-Length: ")[1].split(b"\r\n")[0]))
            if answered == self.ends_after:
                break
            answered += 1
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(number)}\r\n{self.extra}\r\n{number}".encode())
        writer.close()

    def end_all(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    made.end_all()
    await listening.wait_closed()


async def ask(server: Server, pool: Connections, method: str = "GET", *, repeatable: bool = False) -> str:
    target = Target(host="127.0.0.1", port=server.port, path="/", tls=None)
    exchange = Exchange(target, pool, repeatable=repeatable)
    try:
        await exchange.open()
        await exchange.send(method, {}, b"body" if method == "POST" else b"", upgrade=False)
        await exchange.answer()
        return await exchange.text(100)
    finally:
        await exchange.close()


async def test_one_connection_after_another_request(server: Server) -> None:
    pool = Connections()
    assert [await ask(server, pool) for _ in range(3)] == ["1", "1", "1"]
    assert sorted(await asyncio.gather(ask(server, pool), ask(server, pool))) == ["1", "2"]
    await pool.close()
    assert await ask(server, pool) == "3"
    await pool.close()


async def test_a_server_that_closes_is_believed(server: Server) -> None:
    pool = Connections()
    server.extra = "Connection: close\r\n"
    assert [await ask(server, pool) for _ in range(2)] == ["1", "2"]


async def test_a_connection_that_ended_meanwhile(server: Server) -> None:
    pool = Connections()
    await ask(server, pool)
    server.end_all()
    await asyncio.sleep(0.05)  # until the end has arrived
    assert await ask(server, pool, "POST") == "2"
    await pool.close()


async def test_one_that_ends_when_it_is_used(server: Server) -> None:
    """The request is sent again where that does no harm."""
    pool = Connections()
    server.ends_after = 1
    assert await ask(server, pool) == "1"
    assert await ask(server, pool) == "2"
    assert await ask(server, pool, "POST", repeatable=True) == "3"
    with pytest.raises(ConnectionResetError):
        await ask(server, pool, "POST")
    await pool.close()


async def test_not_too_many_are_kept(server: Server) -> None:
    pool = Connections()
    await asyncio.gather(*(ask(server, pool) for _ in range(MOST_IDLE + 5)))
    before = server.connections
    await asyncio.gather(*(ask(server, pool) for _ in range(MOST_IDLE)))
    assert server.connections == before
    await pool.close()
