"""The client's connections against servers that answer in every way HTTP allows, and in some it does not."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tiphys.client import ApiConnectionError, RestConfig
from tiphys.client.http import HIGH_WATER
from tiphys.client.transport import HttpTransport

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(talk: Talk, path: str = "") -> AsyncIterator[HttpTransport]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    transport = HttpTransport(RestConfig(server=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"))
    try:
        yield transport
    finally:
        await transport.close()
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    _, _, rest = head.partition(b"Content-Length: ")
    return head + (await reader.readexactly(int(rest.partition(b"\r")[0])) if rest else b"")


def answering(*answers: bytes) -> tuple[Talk, list[bytes]]:
    """A server that gives the answers of each connection in turn, then closes it; what it was asked."""
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            asked.append(await read_request(reader))
            writer.write(answer)
            await writer.drain()

    return talk, asked


async def test_a_connection_is_used_again_and_the_path_of_the_server_comes_first() -> None:
    talk, asked = answering(OK, OK)
    async with serving(talk, "/prefix") as transport:
        assert (await transport.request("POST", "/a?b=c", {"X-One": "1"}, b"body")).body == b"ok"
        assert (await transport.request("GET", "/b", {}, None)).status == 200
    assert asked[0].startswith(b"POST /prefix/a?b=c HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-One: 1\r\n" in asked[0]
    assert asked[0].endswith(b"Content-Length: 4\r\n\r\nbody")
    assert b"Content-Length" not in asked[1]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", b"ok", id="until the end of the connection"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", b"ok", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="after an interim answer"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="nothing"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"ok"), b"ok", id="compressed"
        ),
    ],
)
async def test_every_way_to_answer(answer: bytes, body: bytes) -> None:
    talk, _ = answering(answer)
    async with serving(talk) as transport:
        assert (await transport.request("GET", "/", {}, None)).body == body


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", id="cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", id="cut off between chunks"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", id="no gzip"),
    ],
)
async def test_an_answer_that_is_none_is_an_error(answer: bytes) -> None:
    talk, asked = answering(answer)
    async with serving(talk) as transport:
        with pytest.raises(ApiConnectionError, match="GET http"):
            await transport.request("GET", "/", {}, None)
    assert len(asked) == 1


@pytest.mark.parametrize(("method", "connections"), [("GET", 2), ("POST", 1)])
async def test_what_may_be_said_twice_is_said_again_when_an_idle_connection_ends(method: str, connections: int) -> None:
    opened = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)  # the second request of a connection is never answered

    async with serving(talk) as transport:
        await transport.request("GET", "/", {}, None)
        again = transport.request(method, "/", {}, None)
        if method == "GET":
            assert (await again).body == b"ok"
        else:
            with pytest.raises(ApiConnectionError):
                await again
    assert opened == connections


async def test_a_request_that_was_given_up_leaves_no_answer_for_the_next() -> None:
    release = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await read_request(reader)
            if asked.startswith(b"GET /slow"):
                await release.wait()
            writer.write(OK if b"/slow" not in asked else OK.replace(b"ok", b"no"))

    async with serving(talk) as transport:
        slow = asyncio.ensure_future(transport.request("GET", "/slow", {}, None))
        await asyncio.sleep(0.01)
        slow.cancel()
        release.set()
        assert (await transport.request("GET", "/", {}, None)).body == b"ok"


async def test_a_stream_gives_what_there_is_and_says_when_it_breaks() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()

    async with serving(talk) as transport, transport.stream("/", {}) as answer:
        found: list[bytes] = []
        with pytest.raises(ApiConnectionError):
            async for piece in answer.chunks():
                found += [piece]
    assert b"".join(found) == b"one"


async def test_large_answers_leave_a_connection_as_it_was() -> None:
    size = 3 * HIGH_WATER
    large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    talk, asked = answering(large, large, OK)
    async with serving(talk) as transport, asyncio.timeout(10):
        for _ in range(2):
            assert len((await transport.request("GET", "/", {}, None)).body) == size
        assert (await transport.request("GET", "/", {}, None)).body == b"ok"
    assert len(asked) == 3


async def test_a_stream_waits_for_its_reader() -> None:
    size = 3 * HIGH_WATER
    talk, _ = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    async with serving(talk) as transport, asyncio.timeout(10), transport.stream("/", {}) as answer:
        await asyncio.sleep(0.05)  # it fills up meanwhile
        found = 0
        async for piece in answer.chunks():
            found += len(piece)
            await asyncio.sleep(0)
    assert found == size


async def test_the_root_is_a_path() -> None:
    talk, asked = answering(OK, OK)
    async with serving(talk) as transport:
        await transport.request("GET", "", {}, None)
        await transport.request("GET", "?a=b", {}, None)
    assert [each.partition(b" HTTP")[0] for each in asked] == [b"GET /", b"GET /?a=b"]


async def test_nobody_writes_lines_into_a_request() -> None:
    talk, asked = answering(OK)
    async with serving(talk) as transport:
        with pytest.raises(ValueError, match="end of a line"):
            await transport.request("GET", "/", {"X": "a\r\nY: b"}, None)
    assert not asked


async def test_nobody_there_is_an_error_that_says_where() -> None:
    transport = HttpTransport(RestConfig(server="http://127.0.0.1:1"))
    with pytest.raises(ApiConnectionError, match=r"127\.0\.0\.1:1/x"):
        await transport.request("GET", "/x", {}, None)
