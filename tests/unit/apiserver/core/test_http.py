"""The HTTP layer over real sockets: what goes in on the left comes out on the right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, RawConnection, Response, Stream, StreamResponse, Upgrade
from tiphys.apiserver.http.server import HttpServer


async def echo(request: Request) -> Answer:
    """/stream streams three pieces, /upgrade turns bytes around, /big answers a megabyte; else what was sent."""
    if request.path == "/stream":

        async def pieces(stream: Stream) -> None:
            for piece in (b"one", b"two", b"three"):
                stream.write(piece)
                await stream.drain()

        return StreamResponse(pieces)
    if request.path == "/upgrade":

        async def turn_around(raw: RawConnection) -> None:
            await raw.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            while data := await raw.read():
                await raw.write(data.upper())

        return Upgrade(turn_around)
    if request.path == "/big":
        return Response(200, [b"x" * 1000] * 1000, content_type="text/plain")
    if request.path == "/fail":
        raise RuntimeError("a bug")
    text = f"{request.method} {request.path} {request.query} ".encode()
    return Response(200, text + request.body, content_type="text/plain")


@asynccontextmanager
async def serving(**options: float) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(echo, **options)  # type: ignore[arg-type]  # max_body is an int where it is given
    _, port = await server.listen("127.0.0.1", 0, None)
    try:
        yield server, port
    finally:
        await server.stop(grace=0.1)


async def talk(port: int, *sent: bytes, until_closed: bool = True) -> bytes:
    """Send pieces, each in a packet of its own, and read what comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    try:
        return await asyncio.wait_for(reader.read() if until_closed else reader.readuntil(b"}\n"), 5)
    finally:
        writer.close()
        await writer.wait_closed()


CLOSE = b"Host: x\r\nConnection: close\r\n\r\n"


async def test_a_request_and_its_answer() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"GET /a?b=c&b=d HTTP/1.1\r\n" + CLOSE)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: ")
    assert body == b"GET /a {'b': ['c', 'd']} "


async def test_pipelined_requests_are_answered_in_order() -> None:
    first = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving() as (_, port):
        answer = await talk(port, first + first.replace(b"1 ", b"2 "), b"GET /3 HTTP/1.1\r\n" + CLOSE)
    assert [line for line in answer.split(b"\r\n") if line.startswith(b"GET")] == [
        b"GET /1 {} HTTP/1.1 200 OK",
        b"GET /2 {} HTTP/1.1 200 OK",
        b"GET /3 {} ",
    ]


async def test_a_chunked_body_arrives_whole_whatever_its_packets() -> None:
    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with serving() as (_, port):
        answer = await talk(port, *(request[i : i + 1] for i in range(len(request))))
    assert answer.endswith(b"POST / {} abcde")


async def test_expect_continue_is_answered_before_the_body_comes() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n" + CLOSE)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"POST / {} ok")
        writer.close()
        await writer.wait_closed()


async def test_a_stream_is_chunked() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"GET /stream HTTP/1.1\r\n" + CLOSE)
    assert b"Transfer-Encoding: chunked" in answer
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


async def test_a_large_answer_goes_in_pieces() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"GET /big HTTP/1.1\r\n" + CLOSE)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: 1000000" in head
    assert body == b"x" * 1_000_000


async def test_a_head_request_has_no_body() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"HEAD /big HTTP/1.1\r\n" + CLOSE)
    assert b"Content-Length: 1000000" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_an_upgraded_connection_carries_bytes() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nearly ")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        writer.write(b"late")
        writer.write_eof()
        assert await reader.read() == b"EARLY LATE"
        writer.close()
        await writer.wait_closed()


BAD = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
async def test_malformed_requests_get_a_status_and_the_end(sent: bytes) -> None:
    async with serving() as (_, port):
        answer = await talk(port, sent)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"kind":"Status"' in answer


async def test_a_body_over_the_limit_is_413_by_its_length_and_by_its_bytes() -> None:
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"
    async with serving(max_body=10) as (_, port):
        assert b"413 Request Entity Too Large" in await talk(port, b"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n")
        assert b"413 Request Entity Too Large" in await talk(port, chunked)


async def test_a_head_over_the_limit_is_refused() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_bug_is_a_500_and_the_connection_lives() -> None:
    async with serving() as (_, port):
        answer = await talk(port, b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /ok HTTP/1.1\r\n" + CLOSE)
    assert b"HTTP/1.1 500 Internal Server Error" in answer
    assert b'"message":"Internal error occurred: a bug"' in answer
    assert answer.endswith(b"GET /ok {} ")


async def test_a_client_that_sends_too_slowly_is_cut() -> None:
    async with serving(read_timeout=0.0) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")  # the server has the head and waits for the body
        server.sweep()
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


async def test_stopping_ends_idle_connections() -> None:
    async with serving() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"GET /x {} ")
        await server.stop(grace=0.1)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
