"""The head of an HTTP/1.1 request or response that asks for, or grants, another protocol (RFC 9110 §7.8).

Only heads: after "101 Switching Protocols" the connection belongs to the other protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

MAX_HEAD: Final = 64 << 10
REASONS: Final = {
    101: "Switching Protocols",
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    500: "Internal Server Error",
}


class HTTPError(Exception):
    """The peer does not speak HTTP/1.1, or refused; `status` is the response to give or that was given."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Headers:
    """Header fields in order; names are compared without regard to case."""

    fields: tuple[tuple[str, str], ...] = ()

    def get(self, name: str, default: str = "") -> str:
        """The first value."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), default)

    def tokens(self, name: str) -> list[str]:
        """All values of a field that is a list, split at commas."""
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return [token.strip() for value in values for token in value.split(",") if token.strip()]

    def has_token(self, name: str, token: str) -> bool:
        """Whether the list `name` contains `token`, without regard to case."""
        return token.lower() in (found.lower() for found in self.tokens(name))


@dataclass(frozen=True, slots=True)
class RequestHead:
    """Request line and header fields."""

    method: str
    target: str
    headers: Headers

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status line and header fields."""

    status: int
    headers: Headers
    reason: str = ""

    def encode(self) -> bytes:
        reason = self.reason or REASONS.get(self.status, "")
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in self.headers.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def parse_request(head: bytes) -> RequestHead:
    """From the bytes up to and including the empty line; HTTPError for anything malformed."""
    first, headers = _parse(head)
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise HTTPError(400, "malformed request line")
    return RequestHead(parts[0], parts[1], headers)


def parse_response(head: bytes) -> ResponseHead:
    """From the bytes up to and including the empty line; HTTPError for anything malformed."""
    first, headers = _parse(head)
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise HTTPError(502, "malformed status line")
    return ResponseHead(int(parts[1]), headers, parts[2] if len(parts) > 2 else "")


def _parse(head: bytes) -> tuple[str, Headers]:
    lines = head.decode("latin-1").split("\r\n")
    fields = []
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HTTPError(400, "malformed header field")
        fields.append((name, value.strip()))
    return lines[0], Headers(tuple(fields))


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one head. HTTPError when it is too long, EOFError when the peer went away before any."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise HTTPError(400, "head too long") from error
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise EOFError from error
        raise HTTPError(400, "incomplete head") from error


def plain_response(status: int, message: str) -> bytes:
    """A complete response with a text body that closes the connection."""
    body = message.encode()
    headers = Headers(
        (
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        )
    )
    return ResponseHead(status, headers).encode() + body


def switching(protocol: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
    """The response that grants `protocol`."""
    return ResponseHead(101, Headers((("Upgrade", protocol), ("Connection", "Upgrade"), *more))).encode()


def wants_upgrade(head: RequestHead, protocol: str) -> bool:
    """Whether the request asks to continue in `protocol`."""
    return head.headers.has_token("Connection", "upgrade") and head.headers.has_token("Upgrade", protocol)


def negotiate(offered: Sequence[str], supported: Sequence[str]) -> str | None:
    """The first offered protocol that is supported, None when there is none."""
    return next((protocol for protocol in offered if protocol in supported), None)
