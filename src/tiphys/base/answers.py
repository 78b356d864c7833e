"""A few short answers over HTTP: health, readiness, metrics. Not a web server: GET, one answer a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

REASONS: Final = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}
JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

# Path → status, content type, body; None is not found.
Answer = Callable[[str], tuple[int, str, bytes] | None]


async def serve(host: str, port: int, answer: Answer) -> asyncio.Server:
    """Answer GET requests on an address; the caller closes the server. Raises OSError when it is taken."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10.0)
            path = head.split(b" ", 2)[1].decode("latin-1").split("?")[0]
            status, kind, body = answer(path) or (404, "text/plain; charset=utf-8", b"404 page not found\n")
            lines = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            if kind == JSON:
                lines += "X-Content-Type-Options: nosniff\r\n"
            writer.write(f"{lines}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            pass  # a client that says nothing sensible gets nothing
        finally:
            writer.close()

    return await asyncio.start_server(one, host, port)
