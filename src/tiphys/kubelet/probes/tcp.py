"""tcpSocket: a connection that opens is success."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress

from tiphys.kubelet.probes.outcome import Outcome, failure, success


async def probe_tcp(host: str, port: int, timeout: float) -> Outcome:
    """Connect once and close again."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return failure(f"dial tcp {shown}: i/o timeout")
    except OSError as problem:
        words = (
            "connect: connection refused" if problem.errno == errno.ECONNREFUSED else str(problem.strerror or problem)
        )
        return failure(f"dial tcp {shown}: {words}")
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return success()
