"""Pipes and terminals in the event loop: reading and writing file descriptors that are set non-blocking."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final

CHUNK: Final = 64 << 10


class Reader:
    """Reads a pipe or a terminal's master end. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Some bytes, b"" at the end."""
        while self._fd >= 0:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                await _ready(self._loop.add_reader, self._loop.remove_reader, self._fd)
            except OSError:  # EIO: the other end of a terminal is closed
                return b""
        return b""

    async def read_all(self, limit: int) -> bytes:
        """Everything to the end; what is beyond `limit` bytes is read and dropped."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            if size < limit:
                parts.append(data[: limit - size])
            size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the descriptor up. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Writer:
    """Writes a pipe or a terminal's master end. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        """Write all; BrokenPipeError when nobody reads any more."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise BrokenPipeError("closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await _ready(self._loop.add_writer, self._loop.remove_writer, self._fd)

    def close(self) -> None:
        """Give the descriptor up: the reader sees the end. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


async def _ready(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fire() -> None:
        if not future.done():
            future.set_result(None)

    add(fd, fire)
    try:
        await future
    finally:
        with contextlib.suppress(OSError, ValueError):
            remove(fd)
