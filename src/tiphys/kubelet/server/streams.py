"""exec, attach and port-forward: the client's connection is joined to the runtime's streaming server.

The runtime answers a request for a stream with a URL; the client's own upgrade request is sent there
and from then on bytes are passed as they come. SPDY and WebSocket are for the two ends to speak.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from tiphys.base.log import get_logger
from tiphys.kubelet.server.http import Request, Response

log = get_logger(__name__)

CHUNK: Final = 64 * 1024
CONNECT_TIMEOUT: Final = 10.0  # seconds
# Not for the runtime's eyes, or of this hop alone.
_DROPPED: Final = frozenset({"host", "authorization", "content-length", "x-forwarded-for"})


def joined_to(request: Request, url: str) -> Response:
    """The answer that hands the client's connection over to the stream at `url`."""

    async def takeover(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        except (OSError, TimeoutError) as error:
            log.warning("the runtime's stream at %s cannot be reached: %s", parts.netloc, error)
            body = f"unable to upgrade connection: {error}".encode()
            head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            return
        far_writer.write(_request_head(request, url))
        await _join(reader, writer, far_reader, far_writer)

    return Response(takeover=takeover)


def _request_head(request: Request, url: str) -> bytes:
    parts = urlsplit(url)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    lines = [f"{request.method} {target} HTTP/1.1", f"Host: {parts.netloc}"]
    sent = request.head[:-4].decode("latin-1").split("\r\n")[1:]
    lines += [line for line in sent if line.partition(":")[0].strip().lower() not in _DROPPED]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes both ways until the far end has said all, or either is gone."""
    outward = asyncio.ensure_future(_pass(reader, far_writer))
    inward = asyncio.ensure_future(_pass(far_reader, writer))
    try:
        # A client that has sent all may still be waiting for answers: only the far end's end ends it.
        await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
        if not inward.done():
            await asyncio.wait({inward})
    finally:
        for task in (outward, inward):
            task.cancel()
        await asyncio.gather(outward, inward, return_exceptions=True)
        far_writer.close()
        with suppress(OSError):
            await far_writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
