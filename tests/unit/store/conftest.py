"""Every test that takes `store` runs over each engine: memory, SQLite, and each real etcd there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import etcd
from tiphys.base.clock import FakeClock
from tiphys.store import MemoryStore, SQLiteStore, Store, open_store

ENGINES = ("memory", "sqlite")
ETCDS = [pytest.param(f"etcd:{path}", id=f"etcd{i or ''}") for i, path in enumerate(etcd.programs())] or [
    pytest.param("etcd:", id="etcd", marks=pytest.mark.skip(reason=etcd.WHY_NOT))
]


async def open_engine(engine: str, directory: Path, clock: FakeClock | None = None, quota: int = 64 << 20) -> Store:
    if engine == "memory":
        return await MemoryStore(clock=clock, quota=quota).start()
    return await SQLiteStore.open(directory, clock=clock, quota=quota)


class RealTime(FakeClock):
    """For engines that keep time in another process: to advance is to wait, and a little more."""

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture(params=[*ENGINES, *ETCDS])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of the engine a test runs over."""
    return str(request.param)


@pytest.fixture
def clock(engine: str) -> FakeClock:
    return RealTime() if engine.startswith("etcd") else FakeClock()


@pytest.fixture
def quota() -> int:
    """Bytes."""
    return 64 << 20


@pytest.fixture
def etcd_cluster(engine: str, tmp_path: Path, quota: int) -> Iterator[etcd.EtcdCluster | None]:
    """The members the engine runs on, if it is one that has members."""
    if not engine.startswith("etcd:"):
        yield None
        return
    program = engine.removeprefix("etcd:")
    with etcd.EtcdCluster(tmp_path / "etcd", program=program, quota=quota, durable=False) as cluster:
        yield cluster


@pytest.fixture
async def store(
    engine: str, etcd_cluster: etcd.EtcdCluster | None, tmp_path: Path, clock: FakeClock, quota: int
) -> AsyncIterator[Store]:
    if etcd_cluster is None:
        store = await open_engine(engine, tmp_path / "state", clock, quota)
    else:
        store = await open_store(",".join(etcd_cluster.urls))
    yield store
    await store.close()
