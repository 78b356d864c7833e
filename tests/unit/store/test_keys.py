"""Reading and writing keys.

The history most tests start from (revision 1 is the empty store):

    revision   2        3        4        5
    /a         a1       .        a2       .
    /b         .        b1       .        delete
"""

from __future__ import annotations

import asyncio

import pytest

from tiphys.store import (
    END_OF_KEYS,
    Compare,
    CompareFailed,
    CompareOperator,
    CompareTarget,
    Delete,
    FutureRevisionError,
    Get,
    KeyExists,
    KeyNotFound,
    KeyValue,
    Put,
    Store,
    StoreClosedError,
    prefix_end,
)


async def write_history(store: Store) -> None:
    assert await store.create("/a", b"a1") == 2
    assert await store.create("/b", b"b1") == 3
    assert await store.update("/a", b"a2", expect=2) == 4
    assert (await store.delete("/b")).revision == 5


A1 = KeyValue("/a", b"a1", 2, 2, 1)
A2 = KeyValue("/a", b"a2", 2, 4, 2)
B1 = KeyValue("/b", b"b1", 3, 3, 1)


@pytest.mark.parametrize(
    ("revision", "expected"),
    [(1, ()), (2, (A1,)), (3, (A1, B1)), (4, (A2, B1)), (5, (A2,)), (0, (A2,))],
    ids=["empty", "a", "a-and-b", "a-updated", "b-deleted", "now"],
)
async def test_every_revision_stays_readable(store: Store, revision: int, expected: tuple[KeyValue, ...]) -> None:
    await write_history(store)
    found = await store.range("/", prefix_end("/"), revision=revision)
    assert (found.items, found.revision, found.more, found.count) == (expected, 5, False, len(expected))
    by_key = {kv.key: kv for kv in expected}
    for key in ("/a", "/b", "/c"):
        assert await store.get(key, revision=revision) == by_key.get(key)


async def test_a_future_revision_is_refused(store: Store) -> None:
    await write_history(store)
    with pytest.raises(FutureRevisionError) as caught:
        await store.get("/a", revision=6)
    assert caught.value.revision == 5
    with pytest.raises(FutureRevisionError):
        await store.range("/", "0", revision=6)


async def test_create_refuses_an_existing_key_and_says_what_it_holds(store: Store) -> None:
    await store.create("/a", b"a1")
    with pytest.raises(KeyExists) as caught:
        await store.create("/a", b"other")
    assert caught.value.current == A1
    assert await store.current_revision() == 2


async def test_a_key_created_again_starts_a_new_life(store: Store) -> None:
    await write_history(store)
    assert await store.create("/b", b"b2") == 6
    assert await store.get("/b") == KeyValue("/b", b"b2", 6, 6, 1)


@pytest.mark.parametrize(("key", "expect", "current"), [("/a", 2, A2), ("/b", 3, None), ("/c", 2, None)])
async def test_update_and_delete_of_a_stale_version_fail(
    store: Store, key: str, expect: int, current: KeyValue | None
) -> None:
    await write_history(store)
    with pytest.raises(CompareFailed) as caught:
        await store.update(key, b"x", expect=expect)
    assert caught.value.current == current
    with pytest.raises(CompareFailed) as caught:
        await store.delete(key, expect=expect)
    assert caught.value.current == current
    assert await store.current_revision() == 5


async def test_delete_returns_what_was_there(store: Store) -> None:
    await store.create("/a", b"a1")
    deleted = await store.delete("/a", expect=2)
    assert (deleted.revision, deleted.prev) == (3, A1)
    with pytest.raises(KeyNotFound):
        await store.delete("/a")


async def test_update_needs_a_revision(store: Store) -> None:
    with pytest.raises(ValueError, match="create makes new keys"):
        await store.update("/a", b"x", expect=0)


async def test_ranges_are_cut_and_counted(store: Store) -> None:
    for name in ("c", "a", "b", "d"):
        await store.create(f"/x/{name}", b"v" * 3)
    await store.create("/y/a", b"v")
    page = await store.range("/x/", prefix_end("/x/"), limit=2)
    assert ([kv.key for kv in page.items], page.more, page.count) == (["/x/a", "/x/b"], True, 4)
    rest = await store.range("/x/b\0", prefix_end("/x/"), limit=2, keys_only=True)
    assert ([(kv.key, kv.value) for kv in rest.items], rest.more) == ([("/x/c", b""), ("/x/d", b"")], False)
    assert (await store.range("", END_OF_KEYS)).count == 5
    assert [kv.key for kv in (await store.range("/x/a", "")).items] == ["/x/a"]


async def test_a_transaction_is_one_revision(store: Store) -> None:
    await write_history(store)
    result = await store.txn(
        [Compare("/a", CompareTarget.VALUE, b"a2"), Compare("/b", CompareTarget.VERSION, 0)],
        [Put("/b", b"b2"), Delete("/a"), Put("/c", b"c1"), Get("/", "0")],
        [Get("/a")],
    )
    assert result.succeeded
    assert result.revision == 6
    assert [tuple(kv.key for kv in response) for response in result.responses] == [(), ("/a",), (), ("/b", "/c")]
    assert [(kv.key, kv.mod_revision) for kv in (await store.range("/", "0")).items] == [("/b", 6), ("/c", 6)]


async def test_a_failed_comparison_takes_the_other_branch(store: Store) -> None:
    await write_history(store)
    greater = Compare("/a", CompareTarget.MOD_REVISION, 4, CompareOperator.GREATER)
    result = await store.txn([greater], [Delete("/a")], [Get("/a")])
    assert (result.succeeded, result.revision, result.responses) == (False, 5, ((A2,),))


@pytest.mark.parametrize(
    ("target", "operator", "operand", "expected"),
    [
        (CompareTarget.VERSION, CompareOperator.EQUAL, 2, True),
        (CompareTarget.VERSION, CompareOperator.NOT_EQUAL, 2, False),
        (CompareTarget.CREATE_REVISION, CompareOperator.LESS, 3, True),
        (CompareTarget.CREATE_REVISION, CompareOperator.LESS, 2, False),
        (CompareTarget.LEASE, CompareOperator.EQUAL, 0, True),
        (CompareTarget.VALUE, CompareOperator.GREATER, b"a1", True),
    ],
)
async def test_comparisons(
    store: Store, target: CompareTarget, operator: CompareOperator, operand: int | bytes, expected: bool
) -> None:
    await write_history(store)
    result = await store.txn([Compare("/a", target, operand, operator)], [])
    assert result.succeeded is expected


@pytest.mark.parametrize(
    "operations",
    [[Put("/a", b"1"), Put("/a", b"2")], [Put("/a", b"1"), Delete("/", "0")]],
    ids=["put-put", "put-delete"],
)
async def test_a_transaction_writes_a_key_once(store: Store, operations: list[Put | Delete]) -> None:
    with pytest.raises(ValueError, match="duplicate key"):
        await store.txn([], operations)
    assert await store.current_revision() == 1


async def test_a_delete_of_nothing_makes_no_revision(store: Store) -> None:
    result = await store.txn([], [Delete("/", "0")])
    assert (result.revision, result.responses) == (1, ((),))


async def test_concurrent_writers_get_distinct_consecutive_revisions(store: Store) -> None:
    revisions = await asyncio.gather(*(store.create(f"/k/{i}", b"v") for i in range(300)))
    assert sorted(revisions) == list(range(2, 302))


async def test_one_of_many_concurrent_updates_wins(store: Store) -> None:
    await store.create("/a", b"0")
    results = await asyncio.gather(
        *(store.update("/a", str(i).encode(), expect=2) for i in range(20)), return_exceptions=True
    )
    assert [result for result in results if not isinstance(result, CompareFailed)] == [3]


async def test_a_closed_store_refuses(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.create("/a", b"1")
    with pytest.raises(StoreClosedError):
        await store.get("/a")
    await store.close()


@pytest.mark.parametrize(
    ("prefix", "end"),
    [("/a/", "/a0"), ("", END_OF_KEYS), ("a\U0010ffff", "b"), ("\ud7ff", "\ue000")],
    ids=["slash", "everything", "carry", "surrogates"],
)
def test_prefix_end(prefix: str, end: str) -> None:
    assert prefix_end(prefix) == end
