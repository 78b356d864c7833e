"""Remote commands between our own two ends, over a real socket pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tiphys.machinery.streaming import http, remotecommand, websocket
from tiphys.machinery.streaming.bytestream import SocketStream
from tiphys.machinery.streaming.remotecommand import STDERR, STDOUT, Session, Size, Streams
from tiphys.machinery.streaming.remotecommand_client import run_over_spdy, run_over_websocket
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection

ALL = Streams(stdin=True, stdout=True, stderr=True)


async def echo(session: Session) -> None:
    """Upper-cases its input; tells what it got on standard error."""
    size = 0
    while data := await session.read_stdin():
        size += len(data)
        await session.write(STDOUT, data.upper())
    await session.write(STDERR, f"{size} bytes".encode())
    await session.finish(remotecommand.exit_status(["echo"], 4))


async def show_size(session: Session) -> None:
    first, second = await session.next_size(), await session.next_size()
    await session.write(STDOUT, f"{first} {second}".encode())
    await session.finish(remotecommand.SUCCESS)


class Server:
    """Answers one kind of command on loopback."""

    def __init__(self, streams: Streams, handler: object) -> None:
        self._streams = streams
        self._handler = handler

    async def __aenter__(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        reader, self._writer = await asyncio.open_connection(*self._server.sockets[0].getsockname())
        return reader, self._writer

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = SocketStream(reader, writer)
        try:
            head = http.parse_request(await http.read_head(reader))
            await remotecommand.serve(head, stream, self._streams, self._handler)  # type: ignore[arg-type]
        except http.HTTPError as error:
            await stream.write(http.plain_response(error.status, str(error)))
        finally:
            await stream.close()


async def pieces(*items: bytes) -> AsyncIterator[bytes]:
    for item in items:
        yield item


async def sizes(*items: Size) -> AsyncIterator[Size]:
    for item in items:
        yield item


@pytest.mark.parametrize("spdy", [False, True], ids=["websocket", "spdy"])
async def test_streams_and_exit_code(spdy: bool) -> None:
    output = {STDOUT: b"", STDERR: b""}

    async def collect(channel: int, data: bytes) -> None:
        output[channel] += data

    big = b"x" * 2_000_000
    async with Server(ALL, echo) as (reader, writer):
        stdin = pieces(b"abc", big)
        if spdy:
            status = await run_over_spdy(reader, writer, target="/", host="h", streams=ALL, output=collect, stdin=stdin)
        else:
            status = await run_over_websocket(reader, writer, target="/", host="h", output=collect, stdin=stdin)
    assert remotecommand.exit_code_of(status) == 4
    assert output == {STDOUT: b"ABC" + big.upper(), STDERR: b"2000003 bytes"}


@pytest.mark.parametrize("spdy", [False, True], ids=["websocket", "spdy"])
async def test_sizes(spdy: bool) -> None:
    terminal = Streams(stdin=False, stdout=True, stderr=False, tty=True)
    output = b""

    async def collect(channel: int, data: bytes) -> None:
        nonlocal output
        output += data

    async with Server(terminal, show_size) as (reader, writer):
        wanted = sizes(Size(80, 24), Size(100, 40))
        if spdy:
            await run_over_spdy(reader, writer, target="/", host="h", streams=terminal, output=collect, sizes=wanted)
        else:
            await run_over_websocket(reader, writer, target="/", host="h", output=collect, sizes=wanted)
    assert output == f"{Size(80, 24)} {Size(100, 40)}".encode()


@pytest.mark.parametrize(
    ("protocol", "messages"),
    [
        pytest.param("v4.channel.k8s.io", [b"\1", b"\1HI", b"\0022 bytes", b'\3{"metadata"'], id="v4"),
        pytest.param("v4.base64.channel.k8s.io", [b"1", b"1SEk=", b"2MiBieXRlcw==", b"3eyJtZXRhZGF0YSI"], id="base64"),
        pytest.param("channel.k8s.io", [b"\1", b"\1HI", b"\0022 bytes", b"\3command terminated"], id="v1"),
    ],
)
async def test_older_websocket_protocols(protocol: str, messages: list[bytes]) -> None:
    async def once(session: Session) -> None:
        data = await session.read_stdin()
        await session.write(STDOUT, data.upper())
        await session.write(STDERR, f"{len(data)} bytes".encode())
        await session.finish(remotecommand.exit_status(["x"], 1))

    async with Server(ALL, once) as (reader, writer):
        request = websocket.request("/", "h", [protocol])
        writer.write(request.encode())
        assert websocket.confirm(request, http.parse_response(await http.read_head(reader))) == protocol
        connection = WebSocketConnection(SocketStream(reader, writer), server=False)
        await connection.send(b"0aGk=" if "base64" in protocol else b"\0hi")
        found = [await connection.receive() for _ in messages]
    for message, beginning in zip(found, messages, strict=True):
        assert message is not None
        assert message.startswith(beginning)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param((), 400, id="no upgrade"),
        pytest.param(
            (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v9")),
            403,
            id="unknown protocol",
        ),
    ],
)
async def test_refusals(fields: tuple[tuple[str, str], ...], status: int) -> None:
    async with Server(ALL, echo) as (reader, writer):
        writer.write(http.RequestHead("POST", "/", http.Headers(fields)).encode())
        assert http.parse_response(await http.read_head(reader)).status == status


def test_an_exit_status_is_what_kubectl_reads() -> None:
    status = remotecommand.exit_status(["sh", "-c", "exit 3"], 3)
    assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    assert status["reason"] == "NonZeroExitCode"
    assert remotecommand.exit_code_of(remotecommand.failure_status("no")) is None
