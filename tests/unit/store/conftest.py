"""Every test that takes `store` runs over each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tiphys.base.clock import FakeClock
from tiphys.store import MemoryStore, SQLiteStore, Store

ENGINES = ("memory", "sqlite")


async def open_engine(engine: str, directory: Path, clock: FakeClock | None = None, quota: int = 64 << 20) -> Store:
    if engine == "memory":
        return await MemoryStore(clock=clock, quota=quota).start()
    return await SQLiteStore.open(directory, clock=clock, quota=quota)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    store = await open_engine(request.param, tmp_path / "state", clock)
    yield store
    await store.close()
