"""One client connection: bytes in, requests one at a time to the handler, answers out.

    transport ──data_received──▶ httptools ──▶ _queue (pipelined requests, bounded) ──▶ _serve task ──▶ handler
                                                                                          │
    transport ◀──────────────────────── write ◀── Response | StreamResponse | Upgrade ◀───┘

Answers leave in the order of the requests because one task serves them in turn. Reading stops while the queue is full
or the client does not read its answers. Limits: head 64 KiB, body `max_body` (413), request line to last byte within
`read_timeout` (the server sweeps). Everything malformed is answered with a Status of code 400, and the connection ends.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

import httptools

from tiphys.apiserver.http.raw import RawStream
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import (
    STATUS_LINES,
    Answer,
    Headers,
    Response,
    StreamResponse,
    Upgrade,
    status_response,
)
from tiphys.apiserver.http.stream import ChunkedStream
from tiphys.base.log import get_logger
from tiphys.machinery.errors import StatusError, bad_request, internal_error, request_entity_too_large, status_of

if TYPE_CHECKING:
    from tiphys.apiserver.http.server import HttpServer

Handler = Callable[[Request], Awaitable[Answer]]

log = get_logger(__name__)

MAX_HEAD: Final = 64 * 1024
MAX_PIPELINED: Final = 16
HIGH_WATER: Final = 256 * 1024
PIECE: Final = 256 * 1024  # a large body is written in pieces of this size, so that the loop can breathe between them


class Connection(asyncio.Protocol):
    """The protocol object of one connection."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request | StatusError] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._raw: RawStream | None = None
        self._peer_certificate: bytes | None = None
        self._remote_address = ""
        self._reading_paused = False
        self._broken = False  # a malformed request was seen: nothing after it is parsed
        self._half_closed = False
        # Back-pressure of the sending side.
        self.writable = True
        self.closed = False
        self._drain_waiters: list[asyncio.Future[None]] = []
        self._close_waiters: list[asyncio.Future[None]] = []
        self._writable_callback: Callable[[], None] | None = None
        # When the request that is being received began; None between requests. The server sweeps slow ones.
        self.receiving_since: float | None = monotonic()
        self.busy = False
        self._begin_request()

    # --- asyncio.Protocol -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not inherit asyncio's
        transport.set_write_buffer_limits(high=HIGH_WATER)  # type: ignore[attr-defined]  # as above
        peer = transport.get_extra_info("peername")
        self._remote_address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        tls = transport.get_extra_info("ssl_object")
        if isinstance(tls, ssl.SSLObject):
            self._peer_certificate = tls.getpeercert(binary_form=True)
        self._server.connections.add(self)
        self._task = self._loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._raw is not None:
            self._raw.feed(data)
            return
        if self._broken:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            offset = upgrade.args[0]
            self._broken = True  # what follows is not HTTP: kept for the tunnel
            self._after_upgrade = data[offset:]
        except httptools.HttpParserError as error:
            self._refuse(self._failure or bad_request(f"malformed HTTP request: {error}"))
        self._regulate_reading()

    def eof_received(self) -> bool:
        if self._raw is not None:
            self._raw.feed(b"")
            return not isinstance(self._tls(), ssl.SSLObject)  # TLS has no half-closed connections here
        # A half-closed client may still read its answer; an idle one is done.
        self._half_closed = True
        if not self.busy and not self._queue:
            return False
        self._wake()
        return not isinstance(self._tls(), ssl.SSLObject)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._server.connections.discard(self)
        if self._raw is not None:
            self._raw.lost()
        for waiter in (*self._drain_waiters, *self._close_waiters):
            if not waiter.done():
                waiter.set_result(None)
        self._drain_waiters.clear()
        self._close_waiters.clear()
        if self._writable_callback is not None:
            self._writable_callback()
            self._writable_callback = None
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        for waiter in self._drain_waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._drain_waiters.clear()
        if self._writable_callback is not None:
            self._writable_callback()

    # --- httptools callbacks ----------------------------------------------------------------------
    def _begin_request(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._failure: StatusError | None = None
        self._after_upgrade = b""

    def on_message_begin(self) -> None:
        self._begin_request()
        self.receiving_since = monotonic()

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        key = _NAMES.get(name) or _name(name)
        text = value.decode("latin-1")
        if key in self._headers:
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            self._failure = StatusError(
                status_of(431, "RequestHeaderFieldsTooLarge", "request header fields too large")
            )
            raise ValueError("head too large")

    def on_headers_complete(self) -> None:
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            self._failure = bad_request("malformed HTTP request: not HTTP/1.1")
            raise ValueError("unknown version")
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._server.max_body:
            self._failure = request_entity_too_large(f"limit is {self._server.max_body}")
            raise ValueError("body too large")
        expects = self._headers.get("expect", "").lower() == "100-continue"
        # Sent at once only when no answer of an earlier request is still to come.
        if expects and self._transport is not None and not self.busy and not self._queue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self._server.max_body:
            self._failure = request_entity_too_large(f"limit is {self._server.max_body}")
            raise ValueError("body too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.receiving_since = None
        request = Request(
            self._parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._headers,
            self._body[0] if len(self._body) == 1 else b"".join(self._body),
            peer_certificate=self._peer_certificate,
            remote_address=self._remote_address,
            upgrade=self._parser.should_upgrade(),
        )
        # After an upgrade request the parser is done: without an upgrade in the answer the connection ends.
        request.keep_alive = self._parser.should_keep_alive() and not request.upgrade
        self._queue.append(request)
        self._wake()

    # --- serving ----------------------------------------------------------------------------------
    def _refuse(self, error: StatusError) -> None:
        """Answer `error` after the requests before it, then close: the rest of the input has no meaning."""
        self._broken = True
        self.receiving_since = None
        self._queue.append(error)
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _regulate_reading(self) -> None:
        full = len(self._queue) >= MAX_PIPELINED
        if full != self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    async def _serve(self) -> None:
        """Serve the queued requests in turn until the connection ends."""
        try:
            while not self.closed:
                if not self._queue:
                    if self._half_closed:
                        break
                    self._wakeup = self._loop.create_future()
                    await self._wakeup
                    continue
                item = self._queue.popleft()
                if self._reading_paused:
                    self._regulate_reading()
                self.busy = True
                keep = await self._serve_one(item)
                self.busy = False
                if not keep:
                    break
        except ConnectionResetError:
            pass
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _serve_one(self, item: Request | StatusError) -> bool:
        """Answer one request; True when the connection can carry another."""
        if isinstance(item, StatusError):
            self._send(status_response(item), head_only=False, keep_alive=False)
            return False
        try:
            answer = await self._server.handler(item)
        except StatusError as error:
            answer = status_response(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("%s %s failed", item.method, item.raw_path)
            answer = status_response(internal_error(error))
        keep_alive: bool = item.keep_alive and not self._server.stopping
        if isinstance(answer, Response):
            if answer.length <= PIECE:
                self._send(answer, head_only=item.method == "HEAD", keep_alive=keep_alive)
                if not self.writable:
                    await self.drain()
            else:
                await self._send_large(answer, head_only=item.method == "HEAD", keep_alive=keep_alive)
            return keep_alive
        if isinstance(answer, StreamResponse):
            return await self._send_stream(answer, keep_alive, head_only=item.method == "HEAD")
        await self._hand_over(answer)
        return False

    def _head(self, status: int, content_type: str, headers: list[bytes], keep_alive: bool) -> bytes:
        parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
        if content_type:
            parts.append(b"Content-Type: %b\r\n" % content_type.encode("latin-1"))
        parts.append(self._server.date_header())
        parts.extend(headers)
        parts.append(b"\r\n" if keep_alive else b"Connection: close\r\n\r\n")
        return b"".join(parts)

    def _send(self, answer: Response, *, head_only: bool, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None or self.closed:
            return
        headers = _header_lines(answer.headers)
        headers.append(b"Content-Length: %d\r\n" % answer.length)
        head = self._head(answer.status, answer.content_type, headers, keep_alive)
        body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        transport.write(head if head_only else head + body)

    async def _send_large(self, answer: Response, *, head_only: bool, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None or self.closed:
            return
        headers = _header_lines(answer.headers)
        headers.append(b"Content-Length: %d\r\n" % answer.length)
        transport.write(self._head(answer.status, answer.content_type, headers, keep_alive))
        if head_only:
            return
        parts = [answer.body] if isinstance(answer.body, bytes) else answer.body
        waiting: list[bytes] = []
        size = 0
        for part in parts:
            for start in range(0, len(part), PIECE) if len(part) > PIECE else (0,):
                piece = part[start : start + PIECE] if len(part) > PIECE else part
                waiting.append(piece)
                size += len(piece)
                if size >= PIECE:
                    transport.write(b"".join(waiting))
                    waiting.clear()
                    size = 0
                    await (asyncio.sleep(0) if self.writable else self.drain())
        transport.write(b"".join(waiting))

    async def _send_stream(self, answer: StreamResponse, keep_alive: bool, *, head_only: bool) -> bool:
        if self._transport is None or self.closed:
            return False
        headers = _header_lines(answer.headers)
        # These have no body, hence no chunk that ends it either (RFC 9112, 6.3).
        bodiless = head_only or answer.status in (204, 304)
        if not bodiless:
            headers.append(b"Transfer-Encoding: chunked\r\n")
        self._transport.write(self._head(answer.status, answer.content_type, headers, keep_alive))
        stream = ChunkedStream(self, self._transport)
        try:
            await answer.run(stream)
        except StatusError as error:
            log.warning("stream ended: %s", error.message)
            return False  # without the last chunk: the client sees that the answer is not whole
        finally:
            self._writable_callback = None
        if not bodiless:
            stream.end()
        return keep_alive

    async def _hand_over(self, answer: Upgrade) -> None:
        """Give the raw connection to the handler until it is done."""
        if self._transport is None or self.closed:
            return
        self._raw = RawStream(self, self._transport)
        if self._after_upgrade:
            self._raw.feed(self._after_upgrade)
        for late in self._queue:  # nothing may follow an upgrade request until it is answered
            log.debug("request dropped after an upgrade: %r", late)
        await answer.run(self._raw)

    # --- what streams need ------------------------------------------------------------------------
    async def drain(self) -> None:
        """Wait until the client keeps up; ConnectionResetError once it is gone."""
        if not self.writable and not self.closed:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            await waiter
        if self.closed:
            raise ConnectionResetError("client is gone")

    async def wait_closed(self) -> None:
        """Wait until the client is gone."""
        if not self.closed:
            waiter = self._loop.create_future()
            self._close_waiters.append(waiter)
            await waiter

    def set_writable_callback(self, callback: Callable[[], None]) -> None:
        """See Stream.on_writable."""
        self._writable_callback = callback

    def _tls(self) -> object:
        return None if self._transport is None else self._transport.get_extra_info("ssl_object")

    def abort(self) -> None:
        """Drop the connection without ceremony."""
        if self._transport is not None:
            self._transport.abort()

    def close_when_idle(self) -> None:
        """Close now when no request is being served, else after the answer (see `stopping`)."""
        if not self.busy and self._transport is not None:
            self._transport.close()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The serving task, for the server to await when it stops."""
        return self._task

    def timed_out(self) -> None:
        """The client took too long to send its request."""
        self.receiving_since = None
        if not self.busy and not self._queue:
            self._refuse(StatusError(status_of(408, "Timeout", "request was not received in time")))
        else:
            self.abort()


# Header names as clients spell them, and those we understand; clients are few, and their headers always the same.
_NAMES: Final[dict[bytes, str]] = {}
_REMEMBERED: Final = 1024


def _name(spelled: bytes) -> str:
    name = spelled.decode("latin-1").lower()
    if len(_NAMES) < _REMEMBERED and len(spelled) < 64:
        _NAMES[spelled] = name
    return name


def _header_lines(headers: Headers) -> list[bytes]:
    return [_LINES.get(header) or _line(header) for header in headers]


# The headers that nearly all answers have: how flow control treated the request, and that nobody is to keep it.
_LINES: Final[dict[tuple[str, str], bytes]] = {}
_REPEATED: Final = frozenset({"Cache-Control", "X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"})


def _line(header: tuple[str, str]) -> bytes:
    name, value = header
    text = value.encode("latin-1", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
    line = b"%b: %b\r\n" % (name.encode("latin-1"), text)
    if name in _REPEATED and len(_LINES) < _REMEMBERED:
        _LINES[header] = line
    return line
