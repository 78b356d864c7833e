"""The client side of a proxied request: one HTTP/1.1 exchange with a kubelet, a pod or a service.

An ordinary request is parsed so that the client's connection can be kept; an upgrade (SPDY, WebSocket) is a tunnel:
what either side sends reaches the other unchanged, from the status line on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import httptools

from tiphys.apiserver.http.egress import connect
from tiphys.apiserver.http.links import Rewriter
from tiphys.apiserver.http.pool import Connections, Key
from tiphys.apiserver.http.response import RawConnection, Stream

CONNECT_TIMEOUT: Final = 10.0  # seconds
PIECE: Final = 64 * 1024
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Headers that belong to one connection and are not passed on (RFC 9110, 7.6.1).
HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a request goes. `tls` None is plain HTTP; `path` includes the query."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    server_name: str = ""
    host_header: str = ""  # "" names the target itself
    namespace: str = ""  # the network namespace to connect from; "" is this process's


@dataclass(slots=True)
class Head:
    """The head of an answer."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)


class Exchange:
    """One request to a target. Call `open`, then either `answer` and `body`, or `tunnel`; always `close`."""

    def __init__(self, target: Target, pool: Connections | None = None, *, repeatable: bool = False) -> None:
        """`pool`: where connections are kept. `repeatable`: the request may be sent again, whatever its method.

        A kept connection may end just when it is used: who may ask again then does so on a new one.
        """
        self._target = target
        self._pool = pool
        self._repeatable = repeatable
        self._reused = False
        self._again = b""  # the request, where it may be sent again
        self._whole = False  # the answer was read to its end, and the connection stays
        self._upgrades = False
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head = Head()
        self._head_done = False
        self._done = False
        self._chunks: list[bytes] = []

    async def open(self) -> None:
        """Connect, or use a connection that was kept. Raises OSError (also for TLS) and TimeoutError."""
        kept = None if self._pool is None else self._pool.take(self._key())
        if kept is not None:
            self._reader, self._writer = kept
            self._reused = True
            return
        await self._connect()

    def _key(self) -> Key:
        target = self._target
        return target.host, target.port, target.tls, target.server_name, target.namespace

    async def _connect(self) -> None:
        target = self._target
        async with asyncio.timeout(CONNECT_TIMEOUT):
            name = (target.server_name or target.host) if target.tls else None
            if target.namespace:
                made = await connect(target.namespace, target.host, target.port)
                opened = asyncio.open_connection(sock=made, ssl=target.tls, server_hostname=name)
            else:
                opened = asyncio.open_connection(target.host, target.port, ssl=target.tls, server_hostname=name)
            self._reader, self._writer = await opened

    @property
    def target(self) -> Target:
        """Where it goes."""
        return self._target

    async def send(
        self,
        method: str,
        headers: dict[str, str],
        body: bytes,
        *,
        upgrade: bool,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send the request: `headers` without what is for this server only, and all of `more`.

        With `upgrade` its Upgrade and Connection headers are passed on.
        """
        assert self._writer is not None
        target = self._target
        lines = [f"{method} {target.path} HTTP/1.1", f"Host: {target.host_header or _authority(target)}"]
        for name, value in headers.items():
            if name in HOP_BY_HOP or name in ("host", "content-length", "authorization", "expect"):
                continue
            if name.startswith(("impersonate-", "x-remote-")):
                continue
            lines.append(f"{name}: {value}")
        lines += [f"{name}: {value}" for name, value in more]
        if upgrade:
            lines.append("Connection: Upgrade")
            lines.append(f"Upgrade: {headers.get('upgrade', '')}")
            self._upgrades = True
        elif self._pool is None:
            lines.append("Connection: close")
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        if self._reused and not upgrade and (self._repeatable or method in SAFE):
            self._again = data
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            if not self._again:
                raise
            await self._repeat()

    async def _repeat(self) -> None:
        """Send the request once more, on a new connection."""
        data, self._again = self._again, b""
        assert self._writer is not None
        self._writer.close()
        await self._connect()
        self._writer.write(data)
        await self._writer.drain()

    # --- httptools callbacks -------------------------------------------------------------------------
    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._head.status = self._parser.get_status_code()
        self._head_done = self._head.status >= 200
        if not self._head_done:
            self._head.headers.clear()

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        self._done = self._head_done
        # Only here does the parser still know how the body's end was told.
        self._whole = self._head_done and bool(self._parser.should_keep_alive())

    # --- reading -------------------------------------------------------------------------------------
    async def _more(self) -> bool:
        assert self._reader is not None
        try:
            data = await self._reader.read(PIECE)
        except ConnectionError:
            if not self._again:
                raise
            data = b""
        if not data and self._again:
            await self._repeat()
            return True
        self._again = b""
        if not data:
            self._done = True
            return False
        self._parser.feed_data(data)
        return True

    async def answer(self) -> Head:
        """Read the head of the answer. ConnectionResetError when there is none, httptools errors for nonsense."""
        while not self._head_done:
            if not await self._more():
                raise ConnectionResetError("the connection ended before an answer")
        return self._head

    async def body(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, as it arrives."""
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                yield data
            if self._done:
                return
            await self._more()

    async def text(self, limit: int) -> str:
        """The beginning of the body as text."""
        found = b""
        async for data in self.body():
            found += data
            if len(found) >= limit:
                break
        return found[:limit].decode(errors="replace")

    async def relay(self, stream: Stream, rewriting: Rewriter | None = None) -> None:
        """Write the body to a client's stream as fast as the client takes it, through `rewriting` where given."""
        async for data in self.body():
            if rewriting is not None:
                data = rewriting.feed(data)
            if data:
                stream.write(data)
                await stream.drain()
        if rewriting is not None and (rest := rewriting.close()):
            stream.write(rest)
            await stream.drain()

    async def tunnel(self, client: RawConnection) -> None:
        """Pass bytes both ways until one side ends."""
        reader, writer = self._reader, self._writer
        assert reader is not None
        assert writer is not None

        async def upwards() -> None:
            while data := await client.read():
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()

        async def downwards() -> None:
            while data := await reader.read(PIECE):
                await client.write(data)

        tasks = [asyncio.ensure_future(upwards()), asyncio.ensure_future(downwards())]
        try:
            # When the target has said everything the session is over; the client may end its side earlier.
            await asyncio.wait(tasks[1:])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End the connection, or keep it for the next request."""
        reader, writer = self._reader, self._writer
        if self._pool is not None and reader is not None and writer is not None and self._whole and not self._upgrades:
            self._writer = None
            self._pool.put(self._key(), reader, writer)
            return
        if self._writer is not None:
            self._writer.close()
            try:
                await self._writer.wait_closed()
            except (OSError, asyncio.CancelledError):
                pass


def _authority(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{host}:{target.port}"


# OpenSSL's verification results that mean: signed by nobody we trust.
_UNKNOWN_AUTHORITY: Final = frozenset({18, 19, 20, 21})
_NOT_NOW: Final = frozenset({9, 10})
_WRONG_NAME: Final = frozenset({62, 64})


def failure(target: Target, error: BaseException) -> str:
    """Why a connection failed, in the words clients know from Kubernetes."""
    where = _authority(target)
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            why = "certificate signed by unknown authority"
        elif error.verify_code in _NOT_NOW:
            why = "certificate has expired or is not yet valid"
        elif error.verify_code in _WRONG_NAME:
            why = f"certificate is not valid for {target.server_name or target.host}"
        else:
            why = error.verify_message
        return f"tls: failed to verify certificate: x509: {why}"
    if isinstance(error, TimeoutError):
        return f"dial tcp {where}: i/o timeout"
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {target.host}: no such host"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        return f"dial tcp {where}: connect: {os.strerror(error.errno).lower()}"
    return str(error) or type(error).__name__
