"""SPDY/3.1 frames (draft-mbelshe-httpbis-spdy-00, §2), as far as Kubernetes' streams use them. No I/O.

    control  |1|    version 3 (15)   |  type (16)  |  flags (8)  |  length (24)  |  data
    data     |0|         stream id (31)            |  flags (8)  |  length (24)  |  data

Header blocks are zlib-compressed, in each direction as one stream with a preset dictionary, so frames must be
encoded and decoded in the order in which they travel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

VERSION: Final = 3
FLAG_FIN: Final = 0x01
MAX_FRAME: Final = 16 << 20  # a length field's limit: 24 bits
MAX_HEADERS: Final = 256 << 10
DATA_CHUNK: Final = 32 << 10

SYN_STREAM: Final = 1
SYN_REPLY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
HEADERS: Final = 8
WINDOW_UPDATE: Final = 9

# Status codes of RST_STREAM.
PROTOCOL_ERROR: Final = 1
REFUSED_STREAM: Final = 3
CANCEL: Final = 5

_WORDS: Final = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
]
_TAIL: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _counted(word: str) -> bytes:
    return struct.pack(">I", len(word)) + word.encode()


# §2.6.10.1: the words a header block is likely to have, most of them with their length before them.
DICTIONARY: Final = (
    b"".join(map(_counted, _WORDS))
    + b"".join(map(_counted, ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin")))
    + _TAIL.encode()
)


class SpdyError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class SynStream:
    """The peer opens a stream. `fin`: it will send no data on it."""

    stream_id: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class SynReply:
    """A stream is accepted."""

    stream_id: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fin: bool = False


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream."""

    stream_id: int
    data: bytes
    fin: bool = False


@dataclass(frozen=True, slots=True)
class RstStream:
    """A stream ends at once in both directions."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with the same frame."""

    ping_id: int


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer takes no more streams."""

    last_stream_id: int
    status: int = 0


Frame = SynStream | SynReply | Data | RstStream | Ping | GoAway


class Encoder:
    """Frames to bytes, for one direction of one connection."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def encode(self, frame: Frame) -> bytes:
        match frame:
            case Data(stream_id, data, fin):
                return struct.pack(">II", stream_id, _flags(fin) | len(data)) + data
            case SynStream(stream_id, headers, fin):
                return _control(SYN_STREAM, struct.pack(">IIH", stream_id, 0, 0) + self._block(headers), fin)
            case SynReply(stream_id, headers, fin):
                return _control(SYN_REPLY, struct.pack(">I", stream_id) + self._block(headers), fin)
            case RstStream(stream_id, status):
                return _control(RST_STREAM, struct.pack(">II", stream_id, status))
            case Ping(ping_id):
                return _control(PING, struct.pack(">I", ping_id))
            case GoAway(last, status):
                return _control(GOAWAY, struct.pack(">II", last, status))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack(">I", len(headers))
        for name, value in headers.items():
            plain += _counted(name.lower()) + _counted(value)
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _flags(fin: bool) -> int:
    return (FLAG_FIN if fin else 0) << 24


def _control(kind: int, payload: bytes, fin: bool = False) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, kind, _flags(fin) | len(payload)) + payload


class Decoder:
    """Bytes to frames, for one direction of one connection."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that are complete now; SpdyError for what is not SPDY/3."""
        self._buffer += data
        frames: list[Frame] = []
        offset = 0
        while len(self._buffer) - offset >= 8:
            first, second = struct.unpack_from(">II", self._buffer, offset)
            length = second & 0xFFFFFF
            if len(self._buffer) - offset < 8 + length:
                break
            payload = bytes(self._buffer[offset + 8 : offset + 8 + length])
            offset += 8 + length
            fin = bool(second >> 24 & FLAG_FIN)
            if first & 0x80000000:
                if first >> 16 & 0x7FFF != VERSION:
                    raise SpdyError(f"unsupported SPDY version {first >> 16 & 0x7FFF}")
                frame = self._decode_control(first & 0xFFFF, payload, fin)
                if frame is not None:
                    frames.append(frame)
            else:
                frames.append(Data(first, payload, fin))
        del self._buffer[:offset]
        return frames

    def _decode_control(self, kind: int, payload: bytes, fin: bool) -> Frame | None:
        try:
            if kind == SYN_STREAM:
                (stream_id,) = struct.unpack_from(">I", payload)
                return SynStream(stream_id & 0x7FFFFFFF, self._headers(payload[10:]), fin)
            if kind == SYN_REPLY:
                (stream_id,) = struct.unpack_from(">I", payload)
                return SynReply(stream_id & 0x7FFFFFFF, self._headers(payload[4:]), fin)
            if kind == HEADERS:
                self._headers(payload[4:])  # nobody sends them, but the compression must keep in step
                return None
            if kind == RST_STREAM:
                stream_id, status = struct.unpack_from(">II", payload)
                return RstStream(stream_id & 0x7FFFFFFF, status)
            if kind == PING:
                return Ping(*struct.unpack_from(">I", payload))
            if kind == GOAWAY:
                last, status = struct.unpack_from(">II", payload)
                return GoAway(last & 0x7FFFFFFF, status)
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"malformed frame of type {kind}: {error}") from error
        # SETTINGS and WINDOW_UPDATE: none of Kubernetes' peers uses flow control.
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, MAX_HEADERS)
        if self._inflate.unconsumed_tail:
            raise SpdyError("header block too large")
        (count,) = struct.unpack_from(">I", plain)
        offset = 4
        headers: dict[str, str] = {}
        for _ in range(count):
            name, offset = _string(plain, offset)
            value, offset = _string(plain, offset)
            headers[name] = value
        return headers


def _string(data: bytes, offset: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", data, offset)
    end = offset + 4 + length
    if end > len(data):
        raise SpdyError("header block ends early")
    return data[offset + 4 : end].decode("latin-1"), end
