"""SPDY/3.1 on a byte stream: a connection of many streams, each a byte stream of its own.

One task (`run`) reads frames and hands data to streams; anybody writes. There is no flow control, as in every
Kubernetes component: a stream whose reader is `LIMIT` bytes behind holds up the connection until it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Final

from tiphys.machinery.streaming import spdy
from tiphys.machinery.streaming.bytestream import ByteStream

LIMIT: Final = 1 << 20
MAX_STREAMS: Final = 1024  # open at once, on one connection


class SpdyStream:
    """One stream; a ByteStream whose two directions end separately."""

    def __init__(self, connection: SpdyConnection, stream_id: int, headers: Mapping[str, str]) -> None:
        self.stream_id = stream_id
        self.headers = headers
        self._connection = connection
        self._data: deque[bytes] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._remote_done = False
        self._local_done = False
        self._reset = False

    async def read(self) -> bytes:
        """Some bytes; b"" when the peer has closed its side, reset the stream, or the connection has ended."""
        while not self._data and not self._remote_done:
            self._changed.clear()
            await self._changed.wait()
        if not self._data:
            return b""
        piece = self._data.popleft()
        self._waiting -= len(piece)
        if self._waiting < LIMIT:
            self._drained.set()
        return piece

    async def write(self, data: bytes) -> None:
        """Send bytes; BrokenPipeError after the stream was reset or closed on this side."""
        if self._local_done or self._reset:
            raise BrokenPipeError("the stream is closed")
        for start in range(0, len(data), spdy.DATA_CHUNK):
            await self._connection.send(spdy.Data(self.stream_id, data[start : start + spdy.DATA_CHUNK]))

    async def close_write(self) -> None:
        """No more will be sent on this stream."""
        if not self._local_done and not self._reset:
            self._local_done = True
            with contextlib.suppress(OSError):
                await self._connection.send(spdy.Data(self.stream_id, b"", fin=True))
        self._forget_if_done()

    async def close(self) -> None:
        """End the stream in both directions."""
        if not self._reset and not (self._local_done and self._remote_done):
            self._reset = True
            with contextlib.suppress(OSError):
                await self._connection.send(spdy.RstStream(self.stream_id, spdy.CANCEL))
        self.end()
        self._forget_if_done()

    # ---- the connection's side

    async def feed(self, data: bytes, fin: bool) -> None:
        """Data from the peer; waits while the reader is far behind."""
        if data and not self._reset:
            self._data.append(data)
            self._waiting += len(data)
            if self._waiting >= LIMIT:
                self._drained.clear()
        if fin:
            self._remote_done = True
        self._changed.set()
        self._forget_if_done()
        if not self._remote_done:
            await self._drained.wait()

    def end(self) -> None:
        """Nothing more will come."""
        self._remote_done = True
        self._changed.set()
        self._drained.set()

    def reset(self) -> None:
        """The peer ended the stream in both directions."""
        self._reset = True
        self.end()
        self._forget_if_done()

    def _forget_if_done(self) -> None:
        if self._remote_done and (self._local_done or self._reset):
            self._connection.forget(self.stream_id)


class SpdyConnection:
    """A connection; `run` must be running for anything to be received."""

    def __init__(self, transport: ByteStream, *, server: bool) -> None:
        self._transport = transport
        self._server = server
        self._encoder = spdy.Encoder()
        self._decoder = spdy.Decoder()
        self._streams: dict[int, SpdyStream] = {}
        self._next_id = 2 if server else 1
        self._incoming: asyncio.Queue[SpdyStream | None] = asyncio.Queue()
        self._sending = asyncio.Lock()
        self.closed = asyncio.Event()

    async def run(self) -> None:
        """Receive until the connection ends; every stream then ends too. Does not raise for a broken peer."""
        try:
            while data := await self._transport.read():
                for frame in self._decoder.feed(data):
                    await self._receive(frame)
        except (OSError, spdy.SpdyError):
            pass  # to the streams a broken connection is an ended one
        finally:
            self.closed.set()
            for stream in list(self._streams.values()):
                stream.end()
            self._streams.clear()
            self._incoming.put_nowait(None)

    async def accept(self) -> SpdyStream | None:
        """The next stream the peer opens; None when the connection has ended."""
        stream = await self._incoming.get()
        if stream is None:
            self._incoming.put_nowait(None)
        return stream

    async def open(self, headers: Mapping[str, str]) -> SpdyStream:
        """Open a stream to the peer."""
        stream = SpdyStream(self, self._next_id, headers)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        await self.send(spdy.SynStream(stream.stream_id, headers))
        return stream

    async def send(self, frame: spdy.Frame) -> None:
        """Write one frame; ConnectionError when the connection has ended."""
        async with self._sending:  # compression makes the order of frames matter
            await self._transport.write(self._encoder.encode(frame))

    async def close(self) -> None:
        """Say good-bye and end the connection."""
        with contextlib.suppress(OSError):
            await self.send(spdy.GoAway(max(self._streams, default=0)))
        await self._transport.close()

    def forget(self, stream_id: int) -> None:
        """A stream is done in both directions."""
        self._streams.pop(stream_id, None)

    async def _receive(self, frame: spdy.Frame) -> None:
        match frame:
            case spdy.SynStream(stream_id, headers, fin):
                await self._opened(stream_id, headers, fin)
            case spdy.Data(stream_id, data, fin):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    await stream.feed(data, fin)
            case spdy.RstStream(stream_id, _):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    stream.reset()
            case spdy.SynReply(stream_id, _, True):
                stream = self._streams.get(stream_id)
                if stream is not None:
                    await stream.feed(b"", True)
            case spdy.Ping(ping_id) if ping_id % 2 == (1 if self._server else 0):
                await self.send(frame)
            case _:
                pass

    async def _opened(self, stream_id: int, headers: Mapping[str, str], fin: bool) -> None:
        if stream_id % 2 != (1 if self._server else 0) or stream_id in self._streams:
            raise spdy.SpdyError(f"unexpected stream id {stream_id}")
        if len(self._streams) >= MAX_STREAMS:
            await self.send(spdy.RstStream(stream_id, spdy.REFUSED_STREAM))
            return
        stream = SpdyStream(self, stream_id, headers)
        self._streams[stream_id] = stream
        await self.send(spdy.SynReply(stream_id))
        if fin:
            await stream.feed(b"", True)
        self._incoming.put_nowait(stream)
