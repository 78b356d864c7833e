"""Watches: from history, live, and the step between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tiphys.store import (
    CompactedError,
    Delete,
    Event,
    EventType,
    KeyValue,
    Put,
    Store,
    StoreClosedError,
    Watcher,
    prefix_end,
    watch,
)


async def take(watcher: Watcher, count: int) -> list[Event]:
    """The next `count` events."""
    events: list[Event] = []
    while len(events) < count:
        events += await asyncio.wait_for(anext(aiter(watcher)), 10)
    assert len(events) == count
    return events


def changes(events: Sequence[Event]) -> list[tuple[str, str, int]]:
    return [(event.type.value, event.kv.key, event.kv.mod_revision) for event in events]


async def write_history(store: Store) -> None:
    await store.create("/a", b"a1")
    await store.create("/b", b"b1")
    await store.update("/a", b"a2", expect=2)
    await store.delete("/b")


HISTORY = [("PUT", "/a", 2), ("PUT", "/b", 3), ("PUT", "/a", 4), ("DELETE", "/b", 5)]


@pytest.mark.parametrize("from_revision", [1, 2, 3, 4, 5])
async def test_history_then_live(store: Store, from_revision: int) -> None:
    await write_history(store)
    watcher = store.watch("/", "0", from_revision=from_revision)
    expected = [change for change in HISTORY if change[2] >= from_revision]
    assert changes(await take(watcher, len(expected))) == expected
    assert watcher.revision == 5
    await store.create("/c", b"c1")
    assert changes(await take(watcher, 1)) == [("PUT", "/c", 6)]


async def test_live_only_from_now(store: Store) -> None:
    await write_history(store)
    watcher = store.watch("/", "0", from_revision=0)
    await store.create("/c", b"c1")
    assert changes(await take(watcher, 1)) == [("PUT", "/c", 6)]


async def test_a_future_revision_is_waited_for(store: Store) -> None:
    watcher = store.watch("/", "0", from_revision=4)
    await write_history(store)
    assert changes(await take(watcher, 2)) == HISTORY[2:]


@pytest.mark.parametrize("from_revision", [0, 1], ids=["live", "history"])
async def test_events_carry_what_they_replaced(store: Store, from_revision: int) -> None:
    watcher = store.watch("/", "0", from_revision=from_revision)
    if from_revision:
        await write_history(store)
    else:
        writing = asyncio.ensure_future(write_history(store))
        await writing
    created, _, updated, deleted = await take(watcher, 4)
    a1 = KeyValue("/a", b"a1", 2, 2, 1)
    assert created == Event(EventType.PUT, a1, None)
    assert updated == Event(EventType.PUT, KeyValue("/a", b"a2", 2, 4, 2), a1)
    assert deleted == Event(EventType.DELETE, KeyValue("/b", b"", 0, 5, 0), KeyValue("/b", b"b1", 3, 3, 1))


@pytest.mark.parametrize(
    ("start", "end", "keys"),
    [("/a/", "/a0", ["/a/1", "/a/2"]), ("/a/1", "", ["/a/1"]), ("/b", "/c", ["/b/1"])],
    ids=["prefix", "one-key", "range"],
)
@pytest.mark.parametrize("from_revision", [0, 1], ids=["live", "history"])
async def test_only_the_range(store: Store, start: str, end: str, keys: list[str], from_revision: int) -> None:
    live = store.watch(start, end, from_revision=0)
    for key in ("/a/1", "/b/1", "/a/2", "/c"):
        await store.create(key, b"v")
    watcher = live if from_revision == 0 else store.watch(start, end, from_revision=1)
    assert [event.kv.key for event in await take(watcher, len(keys))] == keys


async def test_a_revision_is_never_split(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HISTORY_CHUNK", 2)
    for i in range(4):
        await store.txn([], [Put(f"/{i}/{j}", b"v") for j in range(3)])
    await store.txn([], [Delete("/", "0")])
    seen: list[Event] = []
    watcher = store.watch("/", "0", from_revision=1)
    async for batch in watcher:
        first, last = batch[0].kv.mod_revision, batch[-1].kv.mod_revision
        assert not seen or first > seen[-1].kv.mod_revision
        seen += batch
        assert watcher.revision >= last
        if last == 6:
            break
    assert [event.kv.mod_revision for event in seen] == [2] * 3 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 12


async def test_a_slow_watcher_reads_what_it_missed_from_history(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_QUEUED", 5)
    monkeypatch.setattr(watch, "HISTORY_CHUNK", 3)
    watcher = store.watch("/", "0", from_revision=0)
    for i in range(20):
        await store.create(f"/{i}", b"v")
    assert [event.kv.mod_revision for event in await take(watcher, 20)] == list(range(2, 22))
    await store.create("/live", b"v")
    assert [event.kv.key for event in await take(watcher, 1)] == ["/live"]


async def test_no_gap_between_history_and_live_under_load(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HISTORY_CHUNK", 7)
    total = 400

    async def write(writer: int) -> None:
        for i in range(total // 8):
            await store.create(f"/{writer}/{i}", b"v")

    async def follow(from_revision: int) -> list[int]:
        watcher = store.watch("/", "0", from_revision=from_revision)
        seen: list[int] = []
        async for batch in watcher:
            seen += [event.kv.mod_revision for event in batch]
            if seen[-1] == total + 1:
                break
        watcher.close()
        return seen

    followers = [asyncio.ensure_future(follow(2))]
    writers = asyncio.gather(*(write(i) for i in range(8)))
    halfway = store.watch("/", "0", from_revision=total // 2)
    await anext(aiter(halfway))
    halfway.close()
    followers += [asyncio.ensure_future(follow(start)) for start in (2, 50, total // 2)]
    await writers
    starts = [2, 2, 50, total // 2]
    assert [await follower for follower in followers] == [list(range(start, total + 2)) for start in starts]


async def test_subscribers_know_before_the_writer(store: Store) -> None:
    seen: list[tuple[str, str, int]] = []
    unsubscribe = store.subscribe(lambda events: seen.extend(changes(events)))
    for i in range(3):
        revision = await store.create(f"/{i}", b"v")
        assert seen[-1] == ("PUT", f"/{i}", revision)
    await asyncio.gather(*(store.create(f"/more/{i}", b"v") for i in range(50)))
    assert [revision for _, _, revision in seen] == list(range(2, 55))
    unsubscribe()
    await store.delete("/0")
    assert len(seen) == 53


async def test_a_failing_subscriber_harms_no_write(store: Store) -> None:
    def broken(_: Sequence[Event]) -> None:
        raise RuntimeError("a bug")

    store.subscribe(broken)
    assert await store.create("/a", b"1") == 2


async def test_close_ends_a_waiting_watcher(store: Store) -> None:
    watcher = store.watch("/", "0", from_revision=0)
    waiting = asyncio.ensure_future(anext(aiter(watcher)))
    await asyncio.sleep(0)
    watcher.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_closing_the_store_ends_its_watchers(store: Store) -> None:
    watcher = store.watch("/", "0", from_revision=0)
    waiting = asyncio.ensure_future(anext(aiter(watcher)))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreClosedError):
        await waiting


async def test_progress_without_events(store: Store) -> None:
    watcher = store.watch("/x/", prefix_end("/x/"), from_revision=0)
    await write_history(store)
    assert watcher.revision == 5


async def test_a_watch_from_before_the_compaction_says_so(store: Store) -> None:
    await write_history(store)
    await store.compact(4)
    with pytest.raises(CompactedError) as caught:
        await anext(aiter(store.watch("/", "0", from_revision=3)))
    assert caught.value.compact_revision == 4
    watcher = store.watch("/", "0", from_revision=4)
    assert changes(await take(watcher, 2)) == HISTORY[2:]


async def test_a_slow_watcher_overtaken_by_compaction_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_QUEUED", 2)
    watcher = store.watch("/", "0", from_revision=0)
    for i in range(5):
        await store.create(f"/{i}", b"v")
    await store.compact(5)
    with pytest.raises(CompactedError):
        await anext(aiter(watcher))
