"""A connection as a stream of bytes: what the protocols here run over.

Both a socket and the tunnel inside a WebSocket are one, which is how `SPDY/3.1+portforward.k8s.io` works.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

CHUNK: Final = 64 << 10


class ByteStream(Protocol):
    """Bytes in both directions."""

    async def read(self) -> bytes:
        """Some bytes, b"" at the end. ConnectionError when the connection broke."""

    async def write(self, data: bytes) -> None:
        """Send the bytes; waits while the peer does not take them. ConnectionError when it is gone."""

    async def close(self) -> None:
        """End the connection. Idempotent, never raises."""


class SocketStream:
    """A ByteStream over asyncio's reader and writer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        """No more will be written; reading goes on."""
        with contextlib.suppress(OSError, RuntimeError):
            if self._writer.can_write_eof():
                self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)


async def connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection with a buffer large enough for heads."""
    return await asyncio.open_connection(host, port, limit=CHUNK)
