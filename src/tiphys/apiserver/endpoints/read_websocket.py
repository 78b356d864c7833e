"""A response body as the messages of a WebSocket: how a browser follows a log.

    subprotocol              each piece of the body is
    none, binary.k8s.io      one binary message
    base64.binary.k8s.io     one text message, in base64

What the client sends is not listened to; its end, or the body's, ends the other.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import RawConnection
from tiphys.apiserver.http.upstream import Exchange
from tiphys.machinery.errors import bad_request
from tiphys.machinery.streaming import websocket
from tiphys.machinery.streaming.http import Headers, HTTPError, RequestHead, ResponseHead
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection

BASE64: Final = "base64.binary.k8s.io"
PROTOCOLS: Final = ("binary.k8s.io", BASE64)


def wants_websocket(request: Request) -> bool:
    """Whether the request asks to be answered over a WebSocket."""
    return request.upgrade and websocket.is_request(_head(request))


def handshake(request: Request) -> tuple[ResponseHead, str]:
    """The answer to the handshake and the subprotocol. StatusError (400) when there is nothing in common."""
    try:
        return websocket.accept(_head(request), PROTOCOLS)
    except HTTPError as error:
        raise bad_request(str(error)) from None


def _head(request: Request) -> RequestHead:
    return RequestHead(request.method, request.raw_path, Headers(tuple(request.headers.items())))


class WebSocketBody:
    """Hands on the body of an exchange whose head was read. `run` is for an Upgrade."""

    def __init__(self, exchange: Exchange, accepted: tuple[ResponseHead, str]) -> None:
        self._exchange = exchange
        self._response, self._protocol = accepted

    async def run(self, client: RawConnection) -> None:
        """Answer the handshake, send the body to its end, close."""
        connection = WebSocketConnection(_Transport(client), server=True)
        sending = asyncio.ensure_future(self._send(client, connection))
        listening = asyncio.ensure_future(_until_closed(connection))
        try:
            await asyncio.wait((sending, listening), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, listening):
                task.cancel()
            await asyncio.gather(sending, listening, return_exceptions=True)
            await self._exchange.close()
            client.close()

    async def _send(self, client: RawConnection, connection: WebSocketConnection) -> None:
        await client.write(self._response.encode())
        async for data in self._exchange.body():
            if self._protocol == BASE64:
                await connection.send(base64.b64encode(data), text=True)
            else:
                await connection.send(data)
        await connection.close()


async def _until_closed(connection: WebSocketConnection) -> None:
    while await connection.receive() is not None:
        pass


class _Transport:
    """The client's connection as the ByteStream that WebSockets run over."""

    def __init__(self, client: RawConnection) -> None:
        self._client = client

    async def read(self) -> bytes:
        return await self._client.read()

    async def write(self, data: bytes) -> None:
        await self._client.write(data)

    async def close(self) -> None:
        self._client.close()
