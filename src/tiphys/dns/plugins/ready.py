"""ready: /ready says OK when every plugin that has to learn something first has learnt it, :8181.

https://coredns.io/plugins/ready/
"""

from __future__ import annotations

import asyncio
from typing import Final

from tiphys.base import answers
from tiphys.dns.corefile import Directive
from tiphys.dns.plugin import Plugin, Setup

DEFAULT: Final = ":8181"


def build(directive: Directive, setup: Setup) -> Plugin | None:
    """From `ready [ADDRESS]`; adds a server, asks nothing of queries."""
    host, _, port = (directive.arguments[0] if directive.arguments else DEFAULT).rpartition(":")

    async def run() -> None:
        def answer(path: str) -> tuple[int, str, bytes] | None:
            if path != "/ready":
                return None
            missing = ",".join(name for name, is_ready in setup.ready if not is_ready())
            return (503, answers.TEXT, missing.encode()) if missing else (200, answers.TEXT, b"OK")

        server = await answers.serve(host or "", int(port), answer)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    setup.background[f"ready {host}:{port}"] = run
    return None
