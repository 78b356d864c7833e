"""The client's end of a remote command: v5 over WebSocket, as kubectl does, or v4 over SPDY."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from tiphys.machinery.streaming import http, websocket
from tiphys.machinery.streaming.bytestream import SocketStream
from tiphys.machinery.streaming.remotecommand import (
    CLOSE,
    ERROR,
    RESIZE,
    STDERR,
    STDIN,
    STDOUT,
    Size,
    Streams,
    failure_status,
)
from tiphys.machinery.streaming.spdy_connection import SpdyConnection
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection

Output = Callable[[int, bytes], Awaitable[None]]


async def run_over_websocket(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    target: str,
    host: str,
    output: Output,
    stdin: AsyncIterator[bytes] | None = None,
    sizes: AsyncIterator[Size] | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> Mapping[str, Any]:
    """Run a command over an open connection and return its Status.

    `output(channel, data)` is awaited for everything on STDOUT and STDERR. HTTPError when the server refuses.
    """
    request = websocket.request(target, host, ["v5.channel.k8s.io", "v4.channel.k8s.io"], headers)
    writer.write(request.encode())
    response = http.parse_response(await http.read_head(reader))
    protocol = websocket.confirm(request, response)
    connection = WebSocketConnection(SocketStream(reader, writer), server=False)

    async def send_stdin(source: AsyncIterator[bytes]) -> None:
        async for data in source:
            await connection.send(bytes((STDIN,)) + data)
        if protocol.startswith("v5."):
            await connection.send(bytes((CLOSE, STDIN)))

    async def send_sizes(source: AsyncIterator[Size]) -> None:
        async for size in source:
            await connection.send(bytes((RESIZE,)) + _size_document(size))

    senders = [asyncio.ensure_future(send_stdin(stdin))] if stdin is not None else []
    if sizes is not None:
        senders.append(asyncio.ensure_future(send_sizes(sizes)))
    status: Mapping[str, Any] = failure_status("the connection ended without a status")
    try:
        while (message := await connection.receive()) is not None:
            if message[:1] == bytes((ERROR,)):
                if len(message) > 1:
                    status = json.loads(message[1:])
            elif message and message[0] in (STDOUT, STDERR) and len(message) > 1:
                await output(message[0], message[1:])
    finally:
        await _stop(senders)
        await connection.disconnect()
    return status


async def run_over_spdy(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    target: str,
    host: str,
    streams: Streams,
    output: Output,
    stdin: AsyncIterator[bytes] | None = None,
    sizes: AsyncIterator[Size] | None = None,
) -> Mapping[str, Any]:
    """As `run_over_websocket`, in the older protocol."""
    fields = (
        ("Host", host),
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
    )
    writer.write(http.RequestHead("POST", target, http.Headers(fields)).encode())
    response = http.parse_response(await http.read_head(reader))
    if response.status != 101:
        raise http.HTTPError(response.status, f"the server answered {response.status} {response.reason}")
    connection = SpdyConnection(SocketStream(reader, writer), server=False)
    receiver = asyncio.ensure_future(connection.run())
    error = await connection.open({"streamType": "error"})
    tasks = []
    if streams.stdin:
        tasks.append(asyncio.ensure_future(_feed_stdin(await connection.open({"streamType": "stdin"}), stdin)))
    outputs = []
    for channel, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        if getattr(streams, name) and not (streams.tty and channel == STDERR):
            stream = await connection.open({"streamType": name})
            outputs.append(asyncio.ensure_future(_copy_output(stream, channel, output)))
    if streams.tty:
        tasks.append(asyncio.ensure_future(_feed_sizes(await connection.open({"streamType": "resize"}), sizes)))
    try:
        text = b""
        while data := await error.read():
            text += data
        await asyncio.gather(*outputs)
        return json.loads(text) if text else failure_status("the connection ended without a status")
    finally:
        await _stop([*tasks, *outputs])
        await connection.close()
        await _stop([receiver])


async def _feed_stdin(stream: Any, source: AsyncIterator[bytes] | None) -> None:
    if source is not None:
        async for data in source:
            await stream.write(data)
    await stream.close_write()


async def _feed_sizes(stream: Any, source: AsyncIterator[Size] | None) -> None:
    if source is not None:
        async for size in source:
            await stream.write(_size_document(size))


async def _copy_output(stream: Any, channel: int, output: Output) -> None:
    while data := await stream.read():
        await output(channel, data)


def _size_document(size: Size) -> bytes:
    return json.dumps({"Width": size.width, "Height": size.height}).encode()


async def _stop(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
