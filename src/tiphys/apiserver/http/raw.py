"""RawStream: a connection after an upgrade. Bytes both ways, reading stops while nobody takes what was read."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tiphys.apiserver.http.connection import Connection

HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024


class RawStream:
    """Implements `RawConnection`. One reader at a time."""

    __slots__ = ("_connection", "_ended", "_paused", "_received", "_size", "_transport", "_waiter")

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._received: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """Called by the connection with what arrives; b"" is the end."""
        if data:
            self._received.append(data)
            self._size += len(data)
            if self._size > HIGH_WATER and not self._paused:
                self._paused = True
                self._transport.pause_reading()
        else:
            self._ended = True
        self._wake()

    def lost(self) -> None:
        """Called by the connection when it is gone."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        """The next bytes from the client; b"" once it has closed its side."""
        while not self._received:
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        self._size = 0
        if self._paused and not self._connection.closed:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the client does not keep up. ConnectionResetError once it is gone."""
        if self._connection.closed:
            raise ConnectionResetError("client is gone")
        self._transport.write(data)
        if not self._connection.writable:
            await self._connection.drain()

    def close(self) -> None:
        """Close the connection, after what was written has been sent."""
        self._transport.close()
