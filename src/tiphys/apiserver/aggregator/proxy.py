"""Proxy: passes an authorized request on to the extension server that answers for its group and version.

The server sees the front proxy's certificate and the X-Remote-* headers; credentials of the client stay here. Watches
are relayed piece by piece as they arrive, upgrades (exec-like subresources, WebSocket) become tunnels.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import quote

import httptools

from tiphys.apiserver.aggregator.apiservices import Registration
from tiphys.apiserver.aggregator.identity import identity_headers
from tiphys.apiserver.aggregator.transport import Transport, TransportError
from tiphys.apiserver.endpoints.health import TEXT
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, RawConnection, Response, Stream, StreamResponse, Upgrade
from tiphys.apiserver.http.upstream import HOP_BY_HOP, Exchange, Head, failure
from tiphys.machinery.errors import internal_error

REQUEST_TIMEOUT: Final = 60.0  # seconds until the head of an answer that is no watch, as upstream's requests
PATH_SAFE: Final = "/:@!$&'()*+,;=~"  # of RFC 3986, 3.3
LONG_RUNNING: Final = frozenset({"watch", "proxy"})
# Made anew for each hop.
_OURS: Final = frozenset({"audit-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-uri"})
_REPLACED: Final = HOP_BY_HOP | {"content-length", "content-type", "date", "audit-id", "cache-control"}
_BODILESS: Final = frozenset({204, 304})


def unavailable() -> Response:
    """What clients are told while a server is known not to answer."""
    return _text(503, "service unavailable\n")


def unreachable(error: TransportError) -> Response:
    """What clients are told when a server that should answer does not."""
    return _text(503, f"error trying to reach service: {error}\n")


def _text(status: int, text: str) -> Response:
    headers = [("X-Content-Type-Options", "nosniff")]
    return Response(status, text.encode(), content_type=TEXT, headers=headers)


async def pass_on(transport: Transport, one: Registration, request: Request, info: RequestInfo) -> Answer:
    """The extension server's answer. TransportError when it cannot be reached."""
    # The path as it was authorized: an encoded slash must not be one thing here and another there.
    path = quote(request.path, safe=PATH_SAFE)
    if request.raw_query:
        path = f"{path}?{request.raw_query}"
    identity = identity_headers(request.user)
    long = request.upgrade or info.verb in LONG_RUNNING
    try:
        async with asyncio.timeout(None if long else REQUEST_TIMEOUT):
            exchange = await transport.connect(one, path)
            return await _exchange(exchange, request, identity)
    except TimeoutError:
        return _text(504, "the extension server did not answer in time\n")


async def _exchange(exchange: Exchange, request: Request, identity: list[tuple[str, str]]) -> Answer:
    upgrade = request.upgrade and "upgrade" in request.headers
    headers = {name: value for name, value in request.headers.items() if name not in _OURS}
    more = [*_forwarded(exchange, request), *identity]
    try:
        await exchange.send(request.method, headers, request.body, upgrade=upgrade, more=more)
        if upgrade:
            return Upgrade(_Tunnel(exchange).run)
        head = await exchange.answer()
    except (OSError, httptools.HttpParserError) as error:
        await exchange.close()
        if isinstance(error, TimeoutError):
            raise
        raise TransportError(_broken(exchange, error)) from None
    except BaseException:
        await exchange.close()
        raise
    return await _answer(exchange, head, request)


def _broken(exchange: Exchange, error: BaseException) -> str:
    if isinstance(error, ConnectionResetError):
        return "EOF"
    return failure(exchange.target, error)


def _forwarded(exchange: Exchange, request: Request) -> list[tuple[str, str]]:
    target = exchange.target
    host = f"[{target.host}]" if ":" in target.host else target.host
    before = request.headers.get("x-forwarded-for", "")
    return [
        ("Audit-Id", request.audit_id),
        ("X-Forwarded-For", ", ".join(filter(None, (before, request.remote_address)))),
        ("X-Forwarded-Host", f"{host}:{target.port}"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Uri", quote(request.path, safe=PATH_SAFE)),
    ]


async def _answer(exchange: Exchange, head: Head, request: Request) -> Answer:
    headers = [(name, value) for name, value in head.headers if name.lower() not in _REPLACED]
    kind = next((value for name, value in head.headers if name.lower() == "content-type"), "")
    if 300 <= head.status < 400 and head.status != 304:
        # A redirect would lead the client, with its credentials, to a place this server knows nothing of.
        await exchange.close()
        message = "the backend attempted to redirect this request, which is not permitted"
        return Response(502, message.encode(), content_type=TEXT)
    if request.method == "HEAD" or head.status in _BODILESS:
        await exchange.close()
        return Response(head.status, b"", content_type=kind, headers=headers)
    return StreamResponse(_Relay(exchange).run, status=head.status, content_type=kind, headers=headers)


class _Relay:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def run(self, stream: Stream) -> None:
        relay = asyncio.ensure_future(self._exchange.relay(stream))
        gone = asyncio.ensure_future(stream.wait_closed())  # a quiet watch would not notice its client leaving
        try:
            await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
        except (OSError, httptools.HttpParserError) as error:
            raise internal_error(error) from None
        finally:
            for task in (relay, gone):
                task.cancel()
            await asyncio.gather(relay, gone, return_exceptions=True)
            await self._exchange.close()


class _Tunnel:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def run(self, client: RawConnection) -> None:
        try:
            await self._exchange.tunnel(client)
        finally:
            await self._exchange.close()
            client.close()
