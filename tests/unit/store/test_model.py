"""Random histories against a model: a list of whole states, one a revision."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests import etcd
from tests.unit.store.conftest import open_engine
from tiphys.store import (
    CompactedError,
    CompareFailed,
    Delete,
    KeyExists,
    KeyNotFound,
    KeyValue,
    Put,
    Store,
    open_store,
    watch,
)

KEYS = st.sampled_from(["/a", "/a/b", "/b", "/b/c", "/ü", "/z"])
VALUES = st.binary(max_size=4)
State = dict[str, KeyValue]


class History(RuleBasedStateMachine):
    """Runs each operation on the store and on `states`, where states[r] is everything at revision r."""

    engine = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        self.store: Store = self.do(self.open())
        self.states: list[State] = [{}, {}]
        self.compacted = 0

    def teardown(self) -> None:
        self.do(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.directory)

    def open(self) -> Any:
        return open_engine(self.engine, self.directory)

    def do(self, operation: Any) -> Any:
        return self.loop.run_until_complete(operation)

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def put(self, state: State, key: str, value: bytes) -> None:
        old, revision = state.get(key), len(self.states)
        created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
        state[key] = KeyValue(key, value, created, revision, version)

    @rule(key=KEYS, value=VALUES)
    def create(self, key: str, value: bytes) -> None:
        state = dict(self.states[-1])
        if key in state:
            with pytest.raises(KeyExists):
                self.do(self.store.create(key, value))
            return
        self.put(state, key, value)
        assert self.do(self.store.create(key, value)) == len(self.states)
        self.states.append(state)

    @rule(key=KEYS, value=VALUES, stale=st.booleans())
    def update(self, key: str, value: bytes, stale: bool) -> None:
        state = dict(self.states[-1])
        current = state.get(key)
        if current is None or stale:
            with pytest.raises(CompareFailed):
                self.do(self.store.update(key, value, expect=(current.mod_revision if current else 0) + 1))
            return
        self.put(state, key, value)
        assert self.do(self.store.update(key, value, expect=current.mod_revision)) == len(self.states)
        self.states.append(state)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        state = dict(self.states[-1])
        if key not in state:
            with pytest.raises(KeyNotFound):
                self.do(self.store.delete(key))
            return
        assert self.do(self.store.delete(key)).prev == state.pop(key)
        self.states.append(state)

    @rule(puts=st.dictionaries(KEYS, VALUES, max_size=3), deleted=KEYS)
    def transaction(self, puts: dict[str, bytes], deleted: str) -> None:
        state = dict(self.states[-1])
        puts.pop(deleted, None)
        changed = bool(puts) or deleted in state
        for key, value in puts.items():
            self.put(state, key, value)
        state.pop(deleted, None)
        self.do(self.store.txn([], [*(Put(key, value) for key, value in puts.items()), Delete(deleted)]))
        if changed:
            self.states.append(state)

    @rule(data=st.data())
    @precondition(lambda self: self.revision > self.compacted)
    def compact(self, data: st.DataObject) -> None:
        revision = data.draw(st.integers(self.compacted + 1, self.revision))
        self.do(self.store.compact(revision))
        self.compacted = revision

    @rule()
    @precondition(lambda self: self.engine != "memory")
    def reopen(self) -> None:
        self.do(self.store.close())
        self.store = self.do(self.open())

    @rule(data=st.data(), limit=st.integers(0, 3))
    def read(self, data: st.DataObject, limit: int) -> None:
        revision = data.draw(st.integers(0, self.revision))
        start, end = data.draw(st.sampled_from([("/", "0"), ("/a", "/b"), ("/b", ""), ("/a/", "/zz")]))
        if 0 < revision < self.compacted:
            with pytest.raises(CompactedError):
                self.do(self.store.range(start, end, revision=revision))
            return
        state = self.states[revision or -1]
        expected = [state[key] for key in sorted(state) if (start <= key < end if end else key == start)]
        found = self.do(self.store.range(start, end, revision=revision, limit=limit))
        assert list(found.items) == (expected[:limit] if limit else expected)
        assert (found.count, found.revision) == (len(expected), self.revision)
        assert found.more == (len(found.items) < len(expected))

    @rule(data=st.data(), chunk=st.integers(1, 5))
    @precondition(lambda self: self.revision > 1)
    def replay(self, data: st.DataObject, chunk: int) -> None:
        """A watch from any kept revision turns the state before it into the state now."""
        if self.engine == "etcd" and self.compacted == self.revision:
            return
        # A deletion right at the compacted revision has no event in etcd.
        first = self.compacted + (self.engine == "etcd")
        from_revision = data.draw(st.integers(max(first, 2), self.revision))
        state = dict(self.states[from_revision - 1])

        async def follow() -> None:
            watcher = self.store.watch("/", "0", from_revision=from_revision)
            while watcher.revision < self.revision:
                for event in await anext(aiter(watcher)):
                    if event.prev is not None or event.kv.mod_revision > self.compacted:
                        assert event.prev == state.get(event.kv.key) or event.prev is None
                    if event.kv.version:
                        state[event.kv.key] = event.kv
                    else:
                        del state[event.kv.key]
            watcher.close()

        whole, watch.HISTORY_CHUNK = watch.HISTORY_CHUNK, chunk  # type: ignore[misc]  # small pieces find more
        try:
            self.do(asyncio.wait_for(follow(), 10))
        finally:
            watch.HISTORY_CHUNK = whole  # type: ignore[misc]
        assert state == self.states[-1]

    @invariant()
    def same_revision(self) -> None:
        assert self.do(self.store.current_revision()) == self.revision


class SQLiteHistory(History):
    engine = "sqlite"


class EtcdHistory(History):
    """Each example has a member of its own, as revisions are counted from the first."""

    engine = "etcd"

    def open(self) -> Any:
        if not hasattr(self, "cluster"):
            program = etcd.programs()[0]
            self.cluster = etcd.EtcdCluster(self.directory, program=program, durable=False).__enter__()
        return open_store(self.cluster.urls[0])

    def teardown(self) -> None:
        self.cluster.kill()
        super().teardown()


RUN = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,  # CI finds the same thing twice
)
TestMemoryHistory = History.TestCase
TestMemoryHistory.settings = RUN
TestSQLiteHistory = SQLiteHistory.TestCase
TestSQLiteHistory.settings = settings(RUN, max_examples=15)
if etcd.programs():
    TestEtcdHistory = EtcdHistory.TestCase
    TestEtcdHistory.settings = settings(RUN, max_examples=6)
else:

    @pytest.mark.skip(reason=etcd.WHY_NOT)
    def test_etcd_history() -> None:
        """Stands for the histories over etcd where there is none."""
