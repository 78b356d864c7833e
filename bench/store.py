"""What the embedded store does on this machine: durable writes/s, ranges, fan-out to watchers.

    python bench/store.py [--seconds 3] [--directory DIR]

Each line is one measurement; the directory should be on the disk the cluster's state will be on.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tiphys.store import SQLiteStore

VALUE = b"x" * 2_000  # a pod


def report(what: str, rate: float, latencies: list[float] | None = None) -> None:
    line = f"{what:<44}{rate:>12,.0f}/s"
    if latencies:
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * q)] * 1e3 for q in (0.5, 0.99))
        line += f"   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"
    print(line, flush=True)


async def writes(store: SQLiteStore, clients: int, seconds: float) -> None:
    latencies: list[float] = []
    start = time.perf_counter()

    async def client(number: int) -> None:
        count = 0
        while (begun := time.perf_counter()) < start + seconds:
            await store.create(f"/registry/{clients}/{number}/{count}", VALUE)
            latencies.append(time.perf_counter() - begun)
            count += 1

    await asyncio.gather(*(client(i) for i in range(clients)))
    report(f"durable creates of 2 kB, {clients} clients", len(latencies) / (time.perf_counter() - start), latencies)


async def updates(store: SQLiteStore, clients: int, seconds: float) -> None:
    latencies: list[float] = []
    revisions = await asyncio.gather(*(store.create(f"/registry/update/{clients}/{i}", VALUE) for i in range(clients)))
    start = time.perf_counter()

    async def client(number: int) -> None:
        revision = revisions[number]
        while (begun := time.perf_counter()) < start + seconds:
            revision = await store.update(f"/registry/update/{clients}/{number}", VALUE, expect=revision)
            latencies.append(time.perf_counter() - begun)

    await asyncio.gather(*(client(i) for i in range(clients)))
    report(f"durable updates of 2 kB, {clients} clients", len(latencies) / (time.perf_counter() - start), latencies)


async def reads(store: SQLiteStore, seconds: float) -> None:
    await asyncio.gather(*(store.create(f"/registry/read/{i:06}", VALUE) for i in range(10_000)))
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        for _ in range(100):
            await store.get(f"/registry/read/{count % 10_000:06}")
            count += 1
    report("get of one key", count / (time.perf_counter() - start))
    for limit, name in ((0, "range of 10,000 keys, keys/s"), (500, "pages of 500 of 10,000 keys, keys/s")):
        start, keys = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            page = await store.range("/registry/read/", "/registry/read0", limit=limit)
            keys += len(page.items)
        report(name, keys / (time.perf_counter() - start))


async def fan_out(store: SQLiteStore, watchers: int, seconds: float) -> None:
    received = 0

    async def follow() -> None:
        nonlocal received
        with store.watch("/registry/fan/", "/registry/fan0", from_revision=0) as watcher:
            async for batch in watcher:
                received += len(batch)
                if batch[-1].kv.key.endswith("/last"):
                    return

    followers = [asyncio.ensure_future(follow()) for _ in range(watchers)]
    await asyncio.sleep(0)
    start, writes = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        await asyncio.gather(*(store.create(f"/registry/fan/{watchers}/{writes + i}", VALUE) for i in range(64)))
        writes += 64
    await store.create(f"/registry/fan/{watchers}/last", VALUE)
    await asyncio.gather(*followers)
    report(f"deliveries to {watchers} watchers", received / (time.perf_counter() - start))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="length of each measurement")
    parser.add_argument(
        "--directory", type=Path, default=None, help="where the store is made (default: a temporary one)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        store = await SQLiteStore.open(directory)
        for clients in (1, 64):
            await writes(store, clients, args.seconds)
        for clients in (1, 64):
            await updates(store, clients, args.seconds)
        await reads(store, args.seconds)
        for watchers in (1, 100, 1_000):
            await fan_out(store, watchers, args.seconds)
        start = time.perf_counter()
        await store.compact(await store.current_revision())
        status = await store.status()
        print(
            f"compaction {time.perf_counter() - start:.2f} s; {status.size >> 20} MB, {status.size_in_use >> 20} in use"
        )
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
