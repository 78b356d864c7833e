"""A WebSocket on a byte stream: whole messages in and out, pings answered, the closing handshake kept."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque

from tiphys.machinery.streaming import websocket
from tiphys.machinery.streaming.bytestream import ByteStream
from tiphys.machinery.streaming.websocket import Message, Opcode, WebSocketError


class WebSocketConnection:
    """One end. One task reads; anybody writes."""

    def __init__(self, transport: ByteStream, *, server: bool) -> None:
        self._transport = transport
        self._server = server
        self._decoder = websocket.Decoder(masked=server)
        self._messages: deque[Message] = deque()
        self._sending = asyncio.Lock()
        self._close_sent = False
        self.close_code: int | None = None  # from the peer's close frame
        self.close_reason = ""

    async def receive(self) -> bytes | None:
        """The next message's data; None when the connection has ended, orderly or not."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                if message.opcode in (Opcode.TEXT, Opcode.BINARY):
                    return message.data
                if message.opcode is Opcode.PING:
                    await self._send(websocket.encode(Opcode.PONG, message.data, mask=not self._server))
                if message.opcode is Opcode.CLOSE:
                    await self._closed_by_peer(message.data)
                    return None
            try:
                data = await self._transport.read()
                if not data:
                    return None
                self._messages.extend(self._decoder.feed(data))
            except OSError:
                return None
            except WebSocketError as error:
                await self.close(error.code, str(error))
                return None

    async def _closed_by_peer(self, data: bytes) -> None:
        if len(data) >= 2:
            (self.close_code,) = struct.unpack(">H", data[:2])
            self.close_reason = data[2:].decode(errors="replace")
        await self.close(self.close_code or websocket.NORMAL)

    async def send(self, data: bytes, *, text: bool = False) -> None:
        """Send one message; ConnectionError when the connection has ended."""
        if self._close_sent:
            raise BrokenPipeError("the WebSocket is closed")
        await self._send(websocket.encode(Opcode.TEXT if text else Opcode.BINARY, data, mask=not self._server))

    async def ping(self) -> None:
        """Keep idle connections alive."""
        await self._send(websocket.encode(Opcode.PING, b"", mask=not self._server))

    async def close(self, code: int = websocket.NORMAL, reason: str = "") -> None:
        """Send the close frame, once. The transport is closed by `disconnect`."""
        if self._close_sent:
            return
        self._close_sent = True
        with contextlib.suppress(OSError):
            await self._send(websocket.encode_close(code, reason, mask=not self._server))

    async def disconnect(self) -> None:
        """End the connection below."""
        await self._transport.close()

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._transport.write(data)


class WebSocketTunnel:
    """The binary messages of a WebSocket as one byte stream: what SPDY runs over when it is tunnelled."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    async def read(self) -> bytes:
        while (data := await self._connection.receive()) is not None:
            if data:  # an empty message is not the end
                return data
        return b""

    async def write(self, data: bytes) -> None:
        await self._connection.send(data)

    async def close(self) -> None:
        await self._connection.close()
        await self._connection.disconnect()
