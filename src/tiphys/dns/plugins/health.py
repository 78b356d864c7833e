"""health: /health says OK while the process lives, :8080. https://coredns.io/plugins/health/

`lameduck 5s`: after being told to stop, go on answering that long, so that clients whose proxy
has not heard of it yet are still served.
"""

from __future__ import annotations

import asyncio
from typing import Final

from tiphys.base import answers
from tiphys.dns.corefile import Directive
from tiphys.dns.plugin import Plugin, Setup
from tiphys.machinery.time import parse_duration

DEFAULT: Final = ":8080"


def build(directive: Directive, setup: Setup) -> Plugin | None:
    """From `health [ADDRESS] { lameduck DURATION }`; adds a server, asks nothing of queries."""
    for line in directive.block:
        if line.name != "lameduck" or len(line.arguments) != 1:
            raise line.error(f"unknown property '{line.name}'")
        setup.lameduck = parse_duration(line.arguments[0]).total_seconds()
    host, _, port = (directive.arguments[0] if directive.arguments else DEFAULT).rpartition(":")

    async def run() -> None:
        def answer(path: str) -> tuple[int, str, bytes] | None:
            return (200, answers.TEXT, b"OK") if path == "/health" else None

        server = await answers.serve(host or "", int(port), answer)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    setup.background[f"health {host}:{port}"] = run
    return None
