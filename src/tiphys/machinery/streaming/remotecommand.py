"""Remote commands (exec, attach): standard streams, terminal size and exit status over SPDY or WebSocket.

    stream    SPDY header streamType    WebSocket channel    direction
    stdin     stdin                     0                    to the container
    stdout    stdout                    1                    from it
    stderr    stderr                    2                    from it
    error     error                     3                    from it, once: how the command ended
    resize    resize                    4                    to it: {"Width":80,"Height":24}
    close     (half-closed stream)      255, v5 only         to it: the channel named in the message ends

The error stream carries a metav1.Status from v4 on; before, the text of a failure.
https://kubernetes.io/docs/reference/using-api/websockets/ and KEP-4006.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tiphys.machinery.streaming import http, websocket
from tiphys.machinery.streaming.bytestream import ByteStream
from tiphys.machinery.streaming.spdy_connection import SpdyConnection, SpdyStream
from tiphys.machinery.streaming.websocket_connection import WebSocketConnection

SPDY_PROTOCOLS: Final = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
WEBSOCKET_PROTOCOLS: Final = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
)
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
STREAM_WAIT: Final = 30.0  # seconds for a client to open its streams

SUCCESS: Final[Mapping[str, Any]] = {"metadata": {}, "status": "Success"}


@dataclass(frozen=True, slots=True)
class Streams:
    """Which standard streams the command has."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """A terminal's size in characters."""

    width: int
    height: int


class Session(Protocol):
    """The server's end of one remote command."""

    async def read_stdin(self) -> bytes:
        """Some input, b"" at its end."""

    async def write(self, channel: int, data: bytes) -> None:
        """Output on STDOUT or STDERR. ConnectionError when the client is gone."""

    async def next_size(self) -> Size | None:
        """The terminal's next size; None when no more will come."""

    async def finish(self, status: Mapping[str, Any]) -> None:
        """Tell how the command ended and close the connection. Never raises."""


def exit_status(argv: list[str], code: int) -> Mapping[str, Any]:
    """The Status of a command that ended with `code`, as kubectl reads it."""
    if code == 0:
        return SUCCESS
    return {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code: "
        f"error executing command [{' '.join(argv)}], exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure_status(message: str) -> Mapping[str, Any]:
    """The Status of a command that could not be run."""
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }


def exit_code_of(status: Mapping[str, Any]) -> int | None:
    """What a client makes of the Status: the exit code, None when the command could not be run."""
    if status.get("status") == "Success":
        return 0
    if status.get("reason") == "NonZeroExitCode":
        for cause in (status.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode" and str(cause.get("message", "")).isdigit():
                return int(cause["message"])
    return None


async def serve(
    head: http.RequestHead,
    transport: ByteStream,
    streams: Streams,
    handler: Callable[[Session], Coroutine[Any, Any, None]],
) -> None:
    """Answer a request for a remote command and run `handler` with the session.

    `handler` ends with `session.finish`; it is cancelled when the client goes away. HTTPError, before anything
    was answered, when the request is not one.
    """
    if websocket.is_request(head):
        response, protocol = websocket.accept(head, WEBSOCKET_PROTOCOLS)
        await transport.write(response.encode())
        session = WebSocketSession(WebSocketConnection(transport, server=True), protocol, streams)
        await session.greet()
        await _run(session.receive, handler(session))
        return
    if not http.wants_upgrade(head, "SPDY/3.1"):
        raise http.HTTPError(400, "unable to upgrade: missing upgrade headers in request")
    offered = head.headers.tokens("X-Stream-Protocol-Version") or ["channel.k8s.io"]
    chosen = http.negotiate(offered, SPDY_PROTOCOLS)
    if chosen is None:
        raise http.HTTPError(
            403,
            f"unable to upgrade: unable to negotiate protocol: client supports {offered}, "
            f"server accepts {list(SPDY_PROTOCOLS)}",
        )
    await transport.write(http.switching("SPDY/3.1", [("X-Stream-Protocol-Version", chosen)]))
    connection = SpdyConnection(transport, server=True)

    async def with_streams() -> None:
        found = await _accept_streams(connection, streams, chosen)
        if found is not None:
            await handler(SpdySession(connection, chosen, found))

    await _run(connection.run, with_streams())


async def _run(receive: Callable[[], Coroutine[Any, Any, None]], work: Coroutine[Any, Any, None]) -> None:
    """Run `work` while `receive` lives."""
    receiver = asyncio.ensure_future(receive())
    worker = asyncio.ensure_future(work)
    try:
        await asyncio.wait((receiver, worker), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (worker, receiver):
            task.cancel()
        outcomes = await asyncio.gather(worker, receiver, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def _accept_streams(connection: SpdyConnection, streams: Streams, protocol: str) -> dict[str, SpdyStream] | None:
    """The streams the client opens for the command; None when it does not open them all in time."""
    expected = {"error"}
    expected |= {name for name in ("stdin", "stdout", "stderr") if getattr(streams, name)}
    if streams.tty:
        expected.discard("stderr")
        if protocol in ("v3.channel.k8s.io", "v4.channel.k8s.io"):
            expected.add("resize")
    found: dict[str, SpdyStream] = {}
    try:
        async with asyncio.timeout(STREAM_WAIT):
            while not expected <= set(found):
                stream = await connection.accept()
                if stream is None:
                    return None
                found[stream.headers.get("streamtype", "")] = stream
    except TimeoutError:
        await connection.close()
        return None
    return found


class SpdySession:
    """A Session over SPDY streams."""

    def __init__(self, connection: SpdyConnection, protocol: str, streams: Mapping[str, SpdyStream]) -> None:
        self._connection = connection
        self._protocol = protocol
        self._streams = streams
        self._sizes = ""

    async def read_stdin(self) -> bytes:
        stream = self._streams.get("stdin")
        return await stream.read() if stream is not None else b""

    async def write(self, channel: int, data: bytes) -> None:
        stream = self._streams.get("stdout" if channel == STDOUT else "stderr")
        if stream is not None:
            await stream.write(data)

    async def next_size(self) -> Size | None:
        stream = self._streams.get("resize")
        if stream is None:
            return None
        while True:
            # JSON documents follow each other without a frame of their own.
            text = self._sizes.lstrip()
            with contextlib.suppress(ValueError):
                document, end = json.JSONDecoder().raw_decode(text)
                self._sizes = text[end:]
                return _size(document)
            data = await stream.read()
            if not data:
                return None
            self._sizes += data.decode(errors="replace")

    async def finish(self, status: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            error = self._streams["error"]
            if self._protocol == "v4.channel.k8s.io":
                await error.write(json.dumps(status).encode())
            elif status.get("status") != "Success":
                await error.write(str(status.get("message", "")).encode())
            for name in ("error", "stdout", "stderr"):
                if name in self._streams:
                    await self._streams[name].close_write()
            await self._connection.close()


class WebSocketSession:
    """A Session over the channels of a WebSocket."""

    def __init__(self, connection: WebSocketConnection, protocol: str, streams: Streams) -> None:
        self._connection = connection
        self._base64 = "base64" in protocol
        self._status = protocol.startswith(("v4.", "v5."))
        self._closes = protocol.startswith("v5.")
        self._streams = streams
        self._stdin: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self._sizes: asyncio.Queue[Size | None] = asyncio.Queue()
        self._stdin_done = False

    async def greet(self) -> None:
        """An empty message on the lowest channel from the container tells the client that it is connected."""
        channel = STDOUT if self._streams.stdout else STDERR if self._streams.stderr else ERROR
        await self._send(channel, b"")

    async def receive(self) -> None:
        """Take the client's messages apart until it goes away."""
        try:
            while (message := await self._connection.receive()) is not None:
                channel, data = self._decode(message)
                if channel == STDIN and data:
                    await self._stdin.put(data)
                elif channel == RESIZE:
                    with contextlib.suppress(ValueError):
                        self._sizes.put_nowait(_size(json.loads(data)))
                elif channel == CLOSE and self._closes and data[:1] == bytes((STDIN,)):
                    await self._stdin.put(b"")
        finally:
            self._sizes.put_nowait(None)

    def _decode(self, message: bytes) -> tuple[int, bytes]:
        if not message:
            return -1, b""
        if not self._base64:
            return message[0], message[1:]
        try:
            return message[0] - ord("0"), base64.b64decode(message[1:])
        except binascii.Error:
            return -1, b""

    async def read_stdin(self) -> bytes:
        if self._stdin_done:
            return b""
        data = await self._stdin.get()
        self._stdin_done = not data
        return data

    async def write(self, channel: int, data: bytes) -> None:
        if self._streams.stdout if channel == STDOUT else self._streams.stderr:
            await self._send(channel, data)

    async def _send(self, channel: int, data: bytes) -> None:
        if self._base64:
            await self._connection.send(bytes((ord("0") + channel,)) + base64.b64encode(data), text=True)
        else:
            await self._connection.send(bytes((channel,)) + data)

    async def next_size(self) -> Size | None:
        return await self._sizes.get()

    async def finish(self, status: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            if self._status:
                await self._send(ERROR, json.dumps(status).encode())
            elif status.get("status") != "Success":
                await self._send(ERROR, str(status.get("message", "")).encode())
            await self._connection.close()
        await self._connection.disconnect()


def _size(document: Any) -> Size:
    if not isinstance(document, dict):
        raise ValueError("a size is an object")
    return Size(int(document.get("Width", 0)), int(document.get("Height", 0)))
