"""Leases: keys that go when nobody keeps them alive."""

from __future__ import annotations

import asyncio

import pytest

from tiphys.base.clock import FakeClock
from tiphys.store import LeaseNotFound, Store


async def gone(store: Store, key: str) -> None:
    """Wait until the key is deleted."""
    watcher = store.watch(key, "", from_revision=0)
    while await store.get(key) is not None:
        await asyncio.wait_for(anext(aiter(watcher)), 10)
    watcher.close()


async def test_a_lease_that_ends_takes_its_keys_in_one_revision(store: Store, clock: FakeClock) -> None:
    lease = await store.grant_lease(3)
    await store.create("/a", b"1", lease=lease.id)
    await store.create("/b", b"1", lease=lease.id)
    await store.create("/c", b"1")
    await clock.advance(2)
    assert await store.get("/a") is not None
    await clock.advance(1)
    await gone(store, "/a")
    assert [kv.key for kv in (await store.range("/", "0")).items] == ["/c"]
    assert await store.current_revision() == 5
    with pytest.raises(LeaseNotFound):
        await store.keep_alive(lease.id)


async def test_keep_alive_starts_the_time_again(store: Store, clock: FakeClock) -> None:
    lease = await store.grant_lease(3)
    await store.create("/a", b"1", lease=lease.id)
    for _ in range(3):
        await clock.advance(2)
        assert (await store.keep_alive(lease.id)).remaining == 3
    assert await store.get("/a") is not None
    await clock.advance(3)
    await gone(store, "/a")


async def test_leases_end_in_their_own_order(store: Store, clock: FakeClock) -> None:
    for name, ttl in (("/long", 8), ("/short", 2), ("/middle", 4)):
        lease = await store.grant_lease(ttl)
        await store.create(name, b"1", lease=lease.id)
    for name, left in (("/short", ["/long", "/middle"]), ("/middle", ["/long"]), ("/long", [])):
        await clock.advance({"/short": 2, "/middle": 2, "/long": 4}[name])
        await gone(store, name)
        assert [kv.key for kv in (await store.range("/", "0")).items] == left


async def test_a_key_written_without_its_lease_stays(store: Store, clock: FakeClock) -> None:
    lease = await store.grant_lease(10)
    revision = await store.create("/a", b"1", lease=lease.id)
    await store.update("/a", b"2", expect=revision)
    await store.revoke_lease(lease.id)
    assert await store.get("/a") is not None
    with pytest.raises(LeaseNotFound):
        await store.revoke_lease(lease.id)


async def test_a_deleted_key_leaves_its_lease(store: Store) -> None:
    lease = await store.grant_lease(10)
    await store.create("/a", b"1", lease=lease.id)
    await store.delete("/a")
    await store.create("/a", b"2")
    await store.revoke_lease(lease.id)
    assert (await store.get("/a")) is not None


async def test_an_unknown_lease_is_refused(store: Store) -> None:
    with pytest.raises(LeaseNotFound):
        await store.create("/a", b"1", lease=77)
    assert await store.current_revision() == 1
    with pytest.raises(ValueError, match="at least one second"):
        await store.grant_lease(0)
