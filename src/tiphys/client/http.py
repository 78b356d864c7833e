"""HTTP/1.1 as a client of the API needs it: keep-alive connections, one request at a time, answers whole or streamed.

A component makes thousands of small requests a second over few connections, so that the time of each counts
(docs/performance.md). RFC 9112.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS: Final = 10.0
# A stream's reader that falls behind by more than this makes the connection wait.
HIGH_WATER: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: host, port and TLS of a URL, and the path every request begins with."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str
    authority: str
    prefix: str

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None, server_name: str) -> Origin:
        """Of a URL of http or https; `server_name` is checked in the certificate instead of the host. ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a server")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        prefix = parts.path + (f"?{parts.query}" if parts.query else "")
        authority = parts.netloc.rpartition("@")[2]
        return cls(parts.hostname, port, tls, server_name or parts.hostname, authority, prefix)


class Disconnected(ConnectionError):
    """The server closed the connection before the answer was whole; `begun`: after something of it had come."""

    def __init__(self, begun: bool) -> None:
        super().__init__("the server closed the connection")
        self.begun = begun


class Connection(asyncio.Protocol):
    """One connection. `send`, then `whole`, or `head` and `pieces`; again when `reusable`."""

    def __init__(self, lost: Callable[[Connection], None]) -> None:
        """`lost` is called once, when the connection has ended."""
        self._lost = lost
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._closing = False
        self.closed = False
        self.served = 0  # answers so far
        self.idle_since = 0.0  # the pool's note
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.reusable = False
        self._streaming = self._head_done = self._complete = self._paused = False
        self._error: Exception | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0

    # --- asyncio.Protocol -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports do not inherit asyncio's

    def data_received(self, data: bytes) -> None:
        if self._complete:  # more than was asked for
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"the server does not speak HTTP: {error}"))
            return
        if self._complete:
            self._wake()
        elif self._streaming and self._head_done:
            self._wake()
            if self._buffered > HIGH_WATER and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.reusable = False
        if not self._complete and self._error is None:
            lengthy = "Content-Length" in self.headers or "chunked" in self.headers.get("Transfer-Encoding", "")
            if self._head_done and exc is None and not lengthy:
                self._complete = True  # the end of the connection is the end of the body
            else:
                self._error = exc if isinstance(exc, ssl.SSLError) else Disconnected(self._head_done)
        self._wake()
        self._lost(self)

    # --- httptools callbacks ----------------------------------------------------------------------
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").title()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._head_done = True
        else:
            self.headers.clear()  # 1xx: the answer is still to come

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self.reusable = self._parser.should_keep_alive() and not self._closing

    # --- requests ---------------------------------------------------------------------------------
    def send(self, data: bytes, *, streaming: bool) -> None:
        """Write a request, head and body."""
        self._begin()
        self._streaming = streaming
        if self._transport is None or self.closed:
            raise Disconnected(False)
        self._transport.write(data)

    async def whole(self) -> bytes:
        """The body, when all of it is there. Raises ConnectionError, ssl.SSLError."""
        while not self._complete:
            await self._wait()
        self.served += 1
        return decoded(b"".join(self._pieces), self.headers)

    async def head(self) -> None:
        """Wait for status and headers. Raises ConnectionError, ssl.SSLError."""
        while not self._head_done:
            await self._wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises ConnectionError, ssl.SSLError."""
        while True:
            if self._pieces:
                data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces, self._buffered = [], 0
                if self._paused and self._transport is not None:
                    self._paused = False
                    self._transport.resume_reading()
                yield data
            elif self._complete:
                return
            else:
                await self._wait()

    def close(self) -> None:
        """End the connection."""
        self._closing, self.reusable = True, False
        if self._transport is not None and not self.closed:
            self._transport.close()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()
        self.close()


async def connect(origin: Origin, lost: Callable[[Connection], None]) -> Connection:
    """A new connection. Raises OSError (also for TLS), TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        _, connection = await loop.create_connection(
            lambda: Connection(lost),
            origin.host,
            origin.port,
            ssl=origin.tls,
            server_hostname=origin.server_name if origin.tls is not None else None,
        )
    return connection


def decoded(body: bytes, headers: dict[str, str]) -> bytes:
    """A body without its compression; nobody asks for one, but some servers do not ask either. ConnectionError."""
    if headers.get("Content-Encoding", "").lower() != "gzip":
        return body
    try:
        return zlib.decompress(body, wbits=31)
    except zlib.error as error:
        raise ConnectionError(f"the answer is no gzip: {error}") from None


def request(method: str, origin: Origin, target: str, headers: dict[str, str], body: bytes | None) -> bytes:
    """A request's bytes. Raises ValueError for what would end a line before its time."""
    path = origin.prefix + target
    lines = [f"{method} {path if path[:1] == '/' else '/' + path} HTTP/1.1", f"Host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if "Accept-Encoding" not in headers:
        lines.append("Accept-Encoding: identity")
    if body is not None or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body or b'')}")
    text = "\r\n".join(lines) + "\r\n\r\n"
    if text.count("\n") != len(lines) + 1 or text.count("\r") != len(lines) + 1:
        raise ValueError("a header with the end of a line in it")
    head = text.encode("latin-1")
    return head + body if body else head
