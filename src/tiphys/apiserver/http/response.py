"""What a handler answers with: a whole body, a body in pieces, a stream, or the raw connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

import orjson

from tiphys.machinery.errors import StatusError

Headers = Sequence[tuple[str, str]]

JSON: Final = "application/json"
STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Response:
    """A complete answer. `body` is a bytes object, or a list of them sent one after the other without joining."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes | list[bytes] = b"",
        *,
        content_type: str = JSON,
        headers: Headers = (),
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    @property
    def length(self) -> int:
        """Length of the body in bytes."""
        return len(self.body) if isinstance(self.body, bytes) else sum(map(len, self.body))


class Stream(Protocol):
    """The sending half of a response whose end is not known; lives until the handler returns or the client goes."""

    def write(self, data: bytes) -> None:
        """Send one piece (one chunk on the wire). Never blocks; nothing happens once the client is gone."""

    def write_framed(self, data: bytes) -> None:
        """Send bytes that already carry chunked framing (see `frame`), so that many streams can share them."""

    async def drain(self) -> None:
        """Wait until the client keeps up. ConnectionResetError once it is gone."""

    @property
    def writable(self) -> bool:
        """False while the client does not keep up."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Have `callback` called each time the stream becomes writable again, and once when it is lost."""

    @property
    def closed(self) -> bool:
        """True once the client is gone."""

    async def wait_closed(self) -> None:
        """Wait until the client is gone."""


class StreamResponse:
    """An answer written by `run` while the connection lasts."""

    __slots__ = ("content_type", "headers", "run", "status")

    def __init__(
        self,
        run: Callable[[Stream], Awaitable[None]],
        *,
        status: int = 200,
        content_type: str = JSON,
        headers: Headers = (),
    ) -> None:
        self.run = run
        self.status = status
        self.content_type = content_type
        self.headers = headers


class RawConnection(Protocol):
    """The client's connection after an upgrade: plain bytes in both directions."""

    async def read(self) -> bytes:
        """The next bytes from the client; b"" once it has closed its side."""

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the client does not keep up. ConnectionResetError once it is gone."""

    def close(self) -> None:
        """Close the connection, after what was written has been sent."""


class Upgrade:
    """The handler takes the connection over and writes the status line itself; it closes when `run` ends."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[RawConnection], Awaitable[None]]) -> None:
        self.run = run


Answer = Response | StreamResponse | Upgrade


def frame(data: bytes) -> bytes:
    """`data` as one chunk of the chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def status_response(error: StatusError, headers: Headers = ()) -> Response:
    """The metav1.Status of an error as a response, with Retry-After where the status asks for it."""
    extra = list(headers)
    retry_after = (error.status.get("details") or {}).get("retryAfterSeconds")
    if retry_after:
        extra.append(("Retry-After", str(retry_after)))
    return Response(error.code, orjson.dumps(error.status) + b"\n", headers=extra)
