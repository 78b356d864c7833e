"""The wire under the client: requests, and responses that stream, over pooled TLS connections.

`Transport` is the contract; `AiohttpTransport` the implementation. What can go wrong below HTTP is
one exception, `ApiConnectionError`, so that callers need not know the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp
from yarl import URL

from tiphys.client.config import RestConfig, TokenSource

# The pool holds one connection for each watch besides those of short requests.
MAX_CONNECTIONS: Final = 512
CONNECT_SECONDS: Final = 10.0


class ApiConnectionError(ConnectionError):
    """The API server could not be reached, or the connection broke before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

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


class _AiohttpStream:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiConnectionError(str(error) or type(error).__name__) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiConnectionError(str(error) or type(error).__name__) from error


class AiohttpTransport:
    """Pooled keep-alive connections with the identity of `config`."""

    def __init__(self, config: RestConfig) -> None:
        self._config = config
        self._tokens = TokenSource(config)
        self._session: aiohttp.ClientSession | None = None
        self._ssl = config.ssl_context()

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        try:
            async with self._open().request(
                method,
                URL(self._config.server + target, encoded=True),
                data=body,
                headers=await self._headers(headers),
                server_hostname=self._config.tls_server_name or None,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                if answer.status == 401:
                    self._tokens.forget()
                return Response(answer.status, content, answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiConnectionError(f"{method} {self._config.server}{target}: {error}") from error

    @asynccontextmanager
    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[StreamedResponse]:
        try:
            answer = await self._open().get(
                URL(self._config.server + target, encoded=True),
                headers=await self._headers(headers),
                server_hostname=self._config.tls_server_name or None,
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS),
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiConnectionError(f"GET {self._config.server}{target}: {error}") from error
        try:
            if answer.status == 401:
                self._tokens.forget()
            yield _AiohttpStream(answer)
        finally:
            # A watch has no end of its own: drop the connection instead of reading on.
            answer.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
            # TLS connections finish closing in callbacks; one turn of the loop lets plain ones go.
            await asyncio.sleep(0)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=self._ssl or True, keepalive_timeout=60)
            timeout = aiohttp.ClientTimeout(total=60, sock_connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True
            )
        return self._session

    async def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        sent = dict(headers)
        token = await self._tokens.token()
        if token:
            sent["Authorization"] = f"Bearer {token}"
        if self._config.impersonate_user:
            sent["Impersonate-User"] = self._config.impersonate_user
        return sent
