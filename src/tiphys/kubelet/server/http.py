"""A small HTTP/1.1 server for the kubelet: short answers, streams, and connections handed over whole.

The whole contract: a handler takes a Request and returns a Response, whose body is bytes, an async
iterator (sent chunked), or a `takeover` that gets the raw connection (exec, attach, port-forward).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tiphys.base.log import get_logger

log = get_logger(__name__)

MAX_HEAD: Final = 64 * 1024
MAX_BODY: Final = 3 * 1024 * 1024
IDLE: Final = 120.0  # seconds a kept connection may be silent

Takeover = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; header names are in lower case, `head` is as it was received."""

    method: str
    path: str
    query: dict[str, list[str]]
    raw_query: str
    headers: dict[str, str]
    head: bytes
    body: bytes = b""
    peer_certificate: dict[str, Any] | None = None  # verified; as ssl.getpeercert gives it


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer; exactly one of `body`, `stream` and `takeover` counts."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None
    takeover: Takeover | None = None


Handler = Callable[[Request], Awaitable[Response]]
# Entered with a request, left when its answer has gone out whole.
Observer = Callable[[Request], AbstractContextManager[None]]


def text(status: int, message: str) -> Response:
    return Response(status=status, body=message.encode())


class HTTPServer:
    """Serves `handler` on one address until `close`."""

    def __init__(self, handler: Handler, observer: Observer = lambda request: nullcontext()) -> None:
        self._handler = handler
        self._observer = observer
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()

    async def start(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; returns the port. Raises OSError when the address is taken."""
        self._server = await asyncio.start_server(self._connected, address, port, ssl=tls, limit=MAX_HEAD)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # the client went away or does not speak HTTP
        except asyncio.CancelledError:
            pass  # the server is closing: asyncio's own callback would report this as an error
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(OSError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; True when the connection may carry another."""
        async with asyncio.timeout(IDLE):
            request = await _read_request(reader, writer)
        if request is None:
            return False
        with self._observer(request):
            try:
                response = await self._handler(request)
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                response = text(500, "internal error")
            if response.takeover is not None:
                await response.takeover(reader, writer)
                return False
            keep = request.headers.get("connection", "").lower() != "close"
            await _send(writer, request, response, keep)
            return keep


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ", 2)
    except ValueError:
        return None
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY:
        return None
    if "100-continue" in headers.get("expect", ""):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts = urlsplit(target)
    secured = writer.get_extra_info("ssl_object")
    return Request(
        method=method,
        path=unquote(parts.path),
        query=parse_qs(parts.query, keep_blank_values=True),
        raw_query=parts.query,
        headers=headers,
        head=head,
        body=await reader.readexactly(int(length)) if int(length) else b"",
        peer_certificate=secured.getpeercert() if secured is not None else None,
    )


async def _send(writer: asyncio.StreamWriter, request: Request, response: Response, keep: bool) -> None:
    phrase = HTTPStatus(response.status).phrase if response.status in HTTPStatus._value2member_map_ else ""
    headers = {"Content-Type": response.content_type, **response.headers}
    if response.stream is None:
        headers["Content-Length"] = str(len(response.body))
    else:
        headers["Transfer-Encoding"] = "chunked"
    if not keep:
        headers["Connection"] = "close"
    head = f"HTTP/1.1 {response.status} {phrase}\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items()) + "\r\n"
    writer.write(head.encode("latin-1"))
    if response.stream is None:
        if request.method != "HEAD":
            writer.write(response.body)
        await writer.drain()
        return
    await writer.drain()
    async with aclosing(response.stream) as stream:
        async for piece in stream:
            if piece:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
