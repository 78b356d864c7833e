"""Port forwarding: connections to ports of a pod over SPDY, SPDY inside a WebSocket, or WebSocket channels.

SPDY (`portforward.k8s.io`): each connection is a pair of streams with the headers `port` and `requestID`,
`streamType: error` first and `streamType: data` second. kubectl 1.31 and later put the same SPDY bytes into the
messages of a WebSocket (`SPDY/3.1+portforward.k8s.io`). The older WebSocket form (`v4.channel.k8s.io`) has one
connection a port of the query: channels 2n (data) and 2n+1 (error), each beginning with the port as two bytes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from tiphys.machinery.streaming import http, websocket
from tiphys.machinery.streaming.bytestream import ByteStream
from tiphys.machinery.streaming.spdy_connection import SpdyConnection, SpdyStream
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection, WebSocketTunnel

SPDY_PROTOCOL: Final = "portforward.k8s.io"
TUNNEL_PROTOCOL: Final = "SPDY/3.1+portforward.k8s.io"
WEBSOCKET_PROTOCOLS: Final = (TUNNEL_PROTOCOL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "portforward.k8s.io")
PAIR_WAIT: Final = 30.0  # seconds until the data stream must follow its error stream


class Pipe(Protocol):
    """A connection to a port of the pod."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...

    async def close(self) -> None: ...


Dial = Callable[[int], Awaitable[Pipe]]


async def serve(head: http.RequestHead, transport: ByteStream, dial: Dial, ports: Sequence[int] = ()) -> None:
    """Answer a request for port forwarding and forward until the client goes away.

    `dial(port)` connects to the pod, or raises OSError. `ports` are those of a client of WebSocket channels, which
    cannot name one later; without them the request's own parameters count. HTTPError, before anything was answered,
    when the request is not one.
    """
    if websocket.is_request(head):
        response, protocol = websocket.accept(head, WEBSOCKET_PROTOCOLS)
        wanted = (list(ports) or _query_ports(head)) if protocol != TUNNEL_PROTOCOL else []
        await transport.write(response.encode())
        connection = WebSocketConnection(transport, server=True)
        if protocol == TUNNEL_PROTOCOL:
            await _serve_spdy(SpdyConnection(WebSocketTunnel(connection), server=True), dial)
        else:
            await _serve_channels(connection, wanted, dial, encoded="base64" in protocol)
        return
    if not http.wants_upgrade(head, "SPDY/3.1"):
        raise http.HTTPError(400, "unable to upgrade: missing upgrade headers in request")
    offered = head.headers.tokens("X-Stream-Protocol-Version") or [SPDY_PROTOCOL]
    if SPDY_PROTOCOL not in offered:
        raise http.HTTPError(403, f"unable to upgrade: unable to negotiate protocol: client supports {offered}")
    await transport.write(http.switching("SPDY/3.1", [("X-Stream-Protocol-Version", SPDY_PROTOCOL)]))
    await _serve_spdy(SpdyConnection(transport, server=True), dial)


def _query_ports(head: http.RequestHead) -> list[int]:
    values = [text for value in head.query.get("ports", head.query.get("port", [])) for text in value.split(",")]
    if not values:
        raise http.HTTPError(400, 'query parameter "port" is required')
    if not all(text.isdigit() and 0 < int(text) < 65536 for text in values):
        raise http.HTTPError(400, "port must be a number between 1 and 65535")
    return [int(text) for text in values]


# ---- SPDY


async def _serve_spdy(connection: SpdyConnection, dial: Dial) -> None:
    receiver = asyncio.ensure_future(connection.run())
    forwards: set[asyncio.Future[None]] = set()
    waiting: dict[str, SpdyStream] = {}  # error streams by request id
    try:
        while (stream := await connection.accept()) is not None:
            kind, request = stream.headers.get("streamtype", ""), _request_id(stream)
            if kind == "error":
                waiting[request] = stream
            elif kind == "data":
                task = asyncio.ensure_future(_forward(stream, waiting.pop(request, None), dial))
                forwards.add(task)
                task.add_done_callback(forwards.discard)
            else:
                await stream.close()
    finally:
        for forward in (receiver, *forwards):
            forward.cancel()
        await asyncio.gather(receiver, *forwards, return_exceptions=True)
        await connection.close()


def _request_id(stream: SpdyStream) -> str:
    """Old clients send no request id: the data stream's number follows the error stream's."""
    found = stream.headers.get("requestid", "")
    if found:
        return found
    number = stream.stream_id if stream.headers.get("streamtype") == "error" else stream.stream_id - 2
    return f"stream-{number}"


async def _forward(data: SpdyStream, error: SpdyStream | None, dial: Dial) -> None:
    text = data.headers.get("port", "")
    try:
        pipe = await dial(int(text))
    except (OSError, ValueError) as problem:
        if error is not None:
            with contextlib.suppress(OSError):
                await error.write(f"error forwarding port {text} to pod: {problem}".encode())
                await error.close_write()
        await data.close()
        return
    if error is not None:
        await error.close_write()
    try:
        await join(data.read, data.write, data.close_write, pipe)
    finally:
        await pipe.close()
        await data.close()
        if error is not None:
            await error.close()


async def join(
    read: Callable[[], Awaitable[bytes]],
    write: Callable[[bytes], Awaitable[None]],
    end: Callable[[], Awaitable[None]],
    pipe: Pipe,
) -> None:
    """Copy in both directions, each until its end; returns when both have ended or one broke."""

    async def inwards() -> None:
        while data := await read():
            await pipe.write(data)
        await pipe.write_eof()

    async def outwards() -> None:
        while data := await pipe.read():
            await write(data)
        await end()

    tasks = [asyncio.ensure_future(inwards()), asyncio.ensure_future(outwards())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.exception()  # a broken connection ends the forwarding, quietly
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---- WebSocket channels


async def _serve_channels(connection: WebSocketConnection, ports: list[int], dial: Dial, *, encoded: bool) -> None:
    inboxes: list[asyncio.Queue[bytes]] = [asyncio.Queue(maxsize=64) for _ in ports]

    async def send(channel: int, data: bytes) -> None:
        if encoded:
            await connection.send(bytes((ord("0") + channel,)) + base64.b64encode(data), text=True)
        else:
            await connection.send(bytes((channel,)) + data)

    async def receive() -> None:
        while (message := await connection.receive()) is not None:
            if len(message) > 1:
                channel = message[0] - ord("0") if encoded else message[0]
                data = base64.b64decode(message[1:]) if encoded else message[1:]
                if channel % 2 == 0 and channel // 2 < len(ports):
                    await inboxes[channel // 2].put(data)

    async def forward(number: int, port: int) -> None:
        for channel in (2 * number, 2 * number + 1):
            await send(channel, struct.pack("<H", port))
        try:
            pipe = await dial(port)
        except OSError as problem:
            await send(2 * number + 1, f"error forwarding port {port} to pod: {problem}".encode())
            return

        async def end() -> None:
            return None

        try:
            await join(inboxes[number].get, lambda data: send(2 * number, data), end, pipe)
        finally:
            await pipe.close()

    work: list[Coroutine[Any, Any, None]] = [forward(number, port) for number, port in enumerate(ports)]
    receiver = asyncio.ensure_future(receive())
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        await receiver
    finally:
        for task in (receiver, *tasks):
            task.cancel()
        await asyncio.gather(receiver, *tasks, return_exceptions=True)
        await connection.close()
        await connection.disconnect()
