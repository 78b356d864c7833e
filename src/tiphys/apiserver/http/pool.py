"""Connections to other servers that are kept for the next request: a handshake costs more than most answers.

    (host, port, TLS context, name, namespace) → idle connections, the one used last at the end

A connection is kept when its answer was read to the end and the server did not say that it closes it.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

IDLE: Final = 90.0  # seconds a connection is kept, as Go's client does
MOST_IDLE: Final = 16  # to one server
Key = tuple[str, int, ssl.SSLContext | None, str, str]


@dataclass(slots=True, eq=False)
class Kept:
    """An idle connection, and what ends it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    end: asyncio.TimerHandle

    @property
    def usable(self) -> bool:
        """False when the other side has ended it, or said something that nobody asked for."""
        return not (self.reader.at_eof() or self.writer.is_closing() or self.reader._buffer)  # type: ignore[attr-defined]


class Connections:
    """The idle connections of one client."""

    def __init__(self) -> None:
        self._idle: dict[Key, list[Kept]] = {}

    def take(self, key: Key) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to use; None when there is none."""
        idle = self._idle.get(key)
        while idle:
            kept = idle.pop()
            kept.end.cancel()
            if not idle:
                del self._idle[key]
            if kept.usable:
                return kept.reader, kept.writer
            kept.writer.close()
        return None

    def put(self, key: Key, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection that nobody uses any more."""
        idle = self._idle.setdefault(key, [])
        if len(idle) >= MOST_IDLE:
            writer.close()
            return
        end = asyncio.get_running_loop().call_later(IDLE, self._drop, key, writer)
        idle.append(Kept(reader, writer, end))

    def _drop(self, key: Key, writer: asyncio.StreamWriter) -> None:
        idle = [kept for kept in self._idle.pop(key, ()) if kept.writer is not writer]
        if idle:
            self._idle[key] = idle
        writer.close()

    async def close(self) -> None:
        """End all that are idle."""
        for idle in self._idle.values():
            for kept in idle:
                kept.end.cancel()
                kept.writer.close()
        self._idle.clear()
