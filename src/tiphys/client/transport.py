"""The wire under the client: requests, and responses that stream, over pooled TLS connections.

`Transport` is the contract; `HttpTransport` the implementation, on `tiphys.client.http`. What can go wrong below HTTP
is one exception, `ApiConnectionError`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from tiphys.client.config import RestConfig, TokenSource
from tiphys.client.http import Connection, Disconnected, Origin, connect, request

# The pool holds one connection for each watch besides those of short requests.
MAX_CONNECTIONS: Final = 512
REQUEST_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 1.0
# What lies between may forget a connection that is idle for longer.
IDLE_SECONDS: Final = 60.0
# A server may close a connection that was idle just when it is used again. What can be said twice is then said twice.
REPEATABLE: Final = frozenset({"GET", "PUT", "DELETE"})


class ApiConnectionError(ConnectionError):
    """The API server could not be reached, or the connection broke before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; names of headers are written Like-This."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class StreamedResponse(Protocol):
    """An answer that is still arriving."""

    status: int

    async def read(self) -> bytes:
        """The whole rest; for the body of an error."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, in pieces of any size. Raises ApiConnectionError when it breaks off."""


class Transport(Protocol):
    """Sends one request to the API server. `target` is path and query, already quoted."""

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Send and read the whole answer, whatever its status. Raises ApiConnectionError."""

    def stream(self, target: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[StreamedResponse]:
        """GET whose answer is read as it comes. Raises ApiConnectionError on entering."""

    async def close(self) -> None:
        """Close every connection."""


class _Stream:
    def __init__(self, connection: Connection, what: str) -> None:
        self.status = connection.status
        self._connection = connection
        self._what = what

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._connection.pieces():
                yield piece
        except OSError as error:
            raise ApiConnectionError(f"{self._what}: {error}") from error


class HttpTransport:
    """Pooled keep-alive connections with the identity of `config`."""

    def __init__(self, config: RestConfig) -> None:
        self._config = config
        self._tokens = TokenSource(config)
        self._ssl = config.ssl_context()
        self._known: Origin | None = None
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._emptied: asyncio.Event | None = None

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        try:
            data = request(method, self._origin, target, await self._headers(headers), body)
            async with self._slots, asyncio.timeout(REQUEST_SECONDS):
                answer = await self._exchange(data, repeatable=method in REPEATABLE)
        except (OSError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise ApiConnectionError(f"{method} {self._config.server}{target}: {why}") from error
        if answer.status == 401:
            self._tokens.forget()
        return answer

    async def _exchange(self, data: bytes, *, repeatable: bool) -> Response:
        while True:
            connection = self._rested() or await self._connect()
            try:
                connection.send(data, streaming=False)
                body = await connection.whole()
                return Response(connection.status, body, connection.headers)
            except Disconnected as error:
                if error.begun or not connection.served or not repeatable:
                    raise
            finally:
                self._put_back(connection)

    @asynccontextmanager
    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[StreamedResponse]:
        what = f"GET {self._config.server}{target}"
        data = request("GET", self._origin, target, await self._headers(headers), None)
        async with self._slots:
            connection: Connection | None = None
            try:
                try:
                    # Its own connection: it stays busy for long, and ends with the stream.
                    connection = await self._connect()
                    connection.send(data, streaming=True)
                    await connection.head()
                except (OSError, TimeoutError) as error:
                    raise ApiConnectionError(f"{what}: {str(error) or type(error).__name__}") from error
                if connection.status == 401:
                    self._tokens.forget()
                yield _Stream(connection, what)
            finally:
                # A watch has no end of its own: drop the connection instead of reading on.
                if connection is not None:
                    connection.close()

    async def close(self) -> None:
        if not self._all:
            return
        self._emptied = asyncio.Event()
        for connection in list(self._all):
            connection.close()
        with suppress(TimeoutError):  # of a server that does not answer the end of TLS
            await asyncio.wait_for(self._emptied.wait(), CLOSE_SECONDS)
        self._emptied = None

    async def _connect(self) -> Connection:
        connection = await connect(self._origin, self._lost)
        if not connection.closed:
            self._all.add(connection)
        return connection

    def _rested(self) -> Connection | None:
        """The connection that was used last, as long as it can be trusted; the others are older still."""
        if self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            for old in (connection, *self._idle):
                old.close()
            self._idle.clear()
        return None

    @property
    def _origin(self) -> Origin:
        if self._known is None:
            try:
                self._known = Origin.of(self._config.server, self._ssl, self._config.tls_server_name)
            except ValueError as error:
                raise ApiConnectionError(str(error)) from None
        return self._known

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._emptied is not None and not self._all:
            self._emptied.set()

    def _put_back(self, connection: Connection) -> None:
        if connection.reusable and not connection.closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    async def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        sent = dict(headers)
        token = await self._tokens.token()
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if self._config.impersonate_user:
            sent["Impersonate-User"] = self._config.impersonate_user
        return sent
