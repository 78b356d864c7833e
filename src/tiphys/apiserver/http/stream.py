"""ChunkedStream: the sending half of an answer whose end is not known, in chunked transfer coding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from tiphys.apiserver.http.response import frame

if TYPE_CHECKING:
    from tiphys.apiserver.http.connection import Connection


class ChunkedStream:
    """Implements `Stream` on a connection. Writes after the client has gone are dropped silently."""

    __slots__ = ("_connection", "_transport")

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Send one piece; empty pieces are skipped because an empty chunk ends the body."""
        if data and not self._connection.closed:
            self._transport.write(frame(data))

    def write_framed(self, data: bytes) -> None:
        """Send bytes that already carry chunked framing."""
        if not self._connection.closed:
            self._transport.write(data)

    def end(self) -> None:
        """Send the last chunk."""
        if not self._connection.closed:
            self._transport.write(b"0\r\n\r\n")

    async def drain(self) -> None:
        """Wait until the client keeps up. ConnectionResetError once it is gone."""
        await self._connection.drain()

    @property
    def writable(self) -> bool:
        """False while the client does not keep up."""
        return self._connection.writable

    def on_writable(self, callback: Callable[[], None]) -> None:
        """See `Stream`."""
        self._connection.set_writable_callback(callback)

    @property
    def closed(self) -> bool:
        """True once the client is gone."""
        return self._connection.closed

    async def wait_closed(self) -> None:
        """Wait until the client is gone."""
        await self._connection.wait_closed()
