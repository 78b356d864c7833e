"""Child of the kill -9 test: writes until killed, and prints each key with its revision once acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys

from tiphys.store import SQLiteStore


async def write(store: SQLiteStore, writer: int) -> None:
    for i in range(1_000_000):
        key = f"/{os.getpid()}/{writer}/{i}"
        revision = await store.create(key, os.urandom(500))
        os.write(1, f"{key} {revision}\n".encode())


async def main(directory: str) -> None:
    store = await SQLiteStore.open(directory)
    await asyncio.gather(*(write(store, i) for i in range(16)))


asyncio.run(main(sys.argv[1]))
