"""Compaction keeps what can still be read.

revision   2     3     4     5       6     compact(4)      compact(5)
/a         a1    .     a2    .       a3    drops a1        drops a1
/b         .     b1    .     delete  .     keeps b1        drops b1; the delete stays watchable
"""

from __future__ import annotations

import pytest

from tiphys.store import NOSPACE, CompactedError, FutureRevisionError, NoSpaceError, Store
from tiphys.store.sqlite import database


async def write_history(store: Store) -> None:
    await store.create("/a", b"a1")
    await store.create("/b", b"b1")
    await store.update("/a", b"a2", expect=2)
    await store.delete("/b")
    await store.update("/a", b"a3", expect=4)


@pytest.mark.parametrize(
    ("revision", "at_revision"),
    [(4, {"/a": b"a2", "/b": b"b1"}), (5, {"/a": b"a2"}), (6, {"/a": b"a3"})],
)
async def test_what_is_kept(store: Store, revision: int, at_revision: dict[str, bytes]) -> None:
    await write_history(store)
    await store.compact(revision)
    assert await store.compacted_revision() == revision
    found = await store.range("/", "0", revision=revision)
    assert {kv.key: kv.value for kv in found.items} == at_revision
    assert {kv.key: kv.value for kv in (await store.range("/", "0")).items} == {"/a": b"a3"}
    with pytest.raises(CompactedError) as caught:
        await store.get("/a", revision=revision - 1)
    assert caught.value.compact_revision == revision
    with pytest.raises(CompactedError):
        await store.range("/", "0", revision=revision - 1)


async def test_refused_revisions(store: Store) -> None:
    await write_history(store)
    with pytest.raises(FutureRevisionError):
        await store.compact(7)
    await store.compact(3)
    with pytest.raises(CompactedError):
        await store.compact(3)


async def test_in_chunks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "COMPACTION_CHUNK", 3)
    for i in range(10):
        await store.create(f"/{i}", b"old")
        current = await store.get(f"/{i}")
        assert current is not None
        await store.update(f"/{i}", b"new", expect=current.mod_revision)
    before = (await store.status()).revision
    await store.compact(before)
    assert {kv.value for kv in (await store.range("/", "0")).items} == {b"new"}


@pytest.mark.parametrize("quota", [8 << 20])
async def test_a_full_store_recovers_by_deleting_compacting_and_defragmenting(store: Store, quota: int) -> None:
    value = b"x" * (quota // 8)
    keys: list[str] = []
    with pytest.raises(NoSpaceError, match="database space exceeded"):
        for i in range(100):  # etcd notices ten times a second how large it is
            await store.create(f"/{i:02}", value)
            keys.append(f"/{i:02}")
    revision = await store.current_revision()
    assert [alarm.kind for alarm in await store.alarms()] == [NOSPACE]
    there = [kv.key for kv in (await store.range("/", "0", keys_only=True)).items]
    # etcd carries the write out with which it notices, and yet answers that there is no space.
    assert there in (keys, [*keys, f"/{len(keys):02}"])
    for key in keys[2:]:
        revision = (await store.delete(key)).revision
    await store.compact(revision)
    await store.defragment()
    with pytest.raises(NoSpaceError):  # until the alarm is lifted, however much room there is
        await store.create("/again", b"")
    with pytest.raises(NoSpaceError):
        await store.grant_lease(60)
    await store.disarm()
    assert await store.alarms() == []
    status = await store.status()
    assert status.size_in_use < quota // 2
    assert status.quota in (quota, 0)
    assert await store.create("/again", value) == revision + 1


async def test_defragment_gives_space_back(store: Store) -> None:
    for i in range(20):
        await store.create(f"/{i}", b"x" * 100_000)
    for i in range(20):
        await store.delete(f"/{i}")
    await store.compact(await store.current_revision())
    await store.defragment()
    assert (await store.status()).size < 200_000
    assert await store.create("/a", b"1") == 42
