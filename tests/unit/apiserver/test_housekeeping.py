"""Old revisions are forgotten at their time, and what expires does."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tiphys.apiserver.housekeeping import Compactor, SharedLeases
from tiphys.base.clock import FakeClock
from tiphys.store import CompactedError, LeaseNotFound, MemoryStore


async def test_what_was_current_an_interval_ago_becomes_the_oldest_revision() -> None:
    clock = FakeClock()
    store = await MemoryStore(clock=clock).start()
    compactor = Compactor(store, clock, timedelta(minutes=5))
    running = asyncio.create_task(compactor.run())
    try:
        first = await store.create("a", b"1")
        await clock.advance(301)
        second = await store.update("a", b"2", expect=first)
        await clock.advance(300)
        third = await store.update("a", b"3", expect=second)
        await clock.advance(300)
        assert await store.compacted_revision() == second
        with pytest.raises(CompactedError):
            await store.get("a", revision=first)
        current = await store.get("a", revision=third)
        assert current is not None
        assert current.value == b"3"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def test_a_minute_of_writes_shares_a_lease_and_expires_together() -> None:
    clock = FakeClock()
    store = await MemoryStore(clock=clock).start()
    try:
        leases = SharedLeases(lambda: store, clock, timedelta(hours=1))
        first = await leases.current()
        await store.create("event", b"x", lease=first)
        await clock.advance(30)
        assert await leases.current() == first
        await clock.advance(40)
        assert await leases.current() != first
        await clock.advance(3500)
        assert await store.get("event") is not None
        await clock.advance(120)
        assert await store.get("event") is None
    finally:
        await store.close()


async def test_a_lost_lease_is_replaced() -> None:
    clock = FakeClock()
    store = await MemoryStore(clock=clock).start()
    try:
        leases = SharedLeases(lambda: store, clock, timedelta(hours=1))
        first = await leases.current()
        await store.revoke_lease(first)
        with pytest.raises(LeaseNotFound) as lost:
            await store.create("event", b"x", lease=first)
        leases.lost(lost.value)
        assert await leases.current() != first
    finally:
        await store.close()
