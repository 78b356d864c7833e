"""Serves one runtime until it is killed: `python -m tests.e2e.runtime.serve BASE`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.e2e.runtime.harness import options_in
from tiphys.runtime.network import LoopbackOnly
from tiphys.runtime.server import RuntimeServer


async def main() -> None:
    server = RuntimeServer(options_in(Path(sys.argv[1])), LoopbackOnly())
    task = asyncio.ensure_future(server.run())
    ready = asyncio.ensure_future(server.ready.wait())
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print("ready", flush=True)
    await task


asyncio.run(main())
