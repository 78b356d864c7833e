"""MemoryStore: the model itself, applied in the event loop, one transaction at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.tasks import Supervised
from tiphys.store.errors import CompactedError, FutureRevisionError, LeaseNotFound, NoSpaceError, StoreClosedError
from tiphys.store.interface import (
    FIRST_REVISION,
    NOSPACE,
    Alarm,
    Compare,
    Event,
    EventType,
    KeyValue,
    Lease,
    Missed,
    Operation,
    RangeResult,
    Status,
    Subscriber,
    TxnResult,
    Watcher,
)
from tiphys.store.leases import Lessor
from tiphys.store.memory.keys import VersionedKeys
from tiphys.store.snapshot import Contents, write_snapshot
from tiphys.store.transactions import Txn, deletes, execute
from tiphys.store.verbs import Verbs
from tiphys.store.watch import History, WatchHub

DEFAULT_QUOTA: Final = 2 << 30  # bytes, as etcd's default


class MemoryStore(Verbs):
    """See `Store`. Use it as a context manager or call `start` and `close`; leases expire only while started."""

    def __init__(self, *, quota: int = DEFAULT_QUOTA, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._keys = VersionedKeys()
        self._revision = FIRST_REVISION
        self._compacted = 0
        self._quota = quota
        self._size = 0
        self._full = False
        self._lease_keys: dict[int, set[str]] = {}
        self._last_lease = 0
        self._hub = WatchHub(self._read_history, self._revision)
        self._lessor = Lessor(self._clock, self.revoke_lease)
        self._tasks = AsyncExitStack()

    async def start(self) -> MemoryStore:
        """Begin to expire leases."""
        tasks = await self._tasks.enter_async_context(Supervised(self._clock))
        tasks.spawn(self._lessor.run, name="store-leases", restart=True)
        return self

    @property
    def shared(self) -> bool:
        return False

    # Reading

    def current(self, key: str) -> KeyValue | None:
        return self._keys.current(key)

    def current_range(self, start: str, end: str) -> list[KeyValue]:
        return self._keys.current_range(start, end)

    def has_lease(self, lease: int) -> bool:
        return lease in self._lease_keys

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        self._check(revision)
        return self._keys.at(key, revision) if revision else self._keys.current(key)

    async def range(
        self, start: str, end: str, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> RangeResult:
        self._check(revision)
        found = self._keys.range_at(start, end, revision or self._revision)
        items = found[:limit] if limit else found
        if keys_only:
            items = [KeyValue(kv.key, b"", kv.create_revision, kv.mod_revision, kv.version, kv.lease) for kv in items]
        return RangeResult(tuple(items), self._revision, len(items) < len(found), len(found))

    def watch(self, start: str, end: str, *, from_revision: int) -> Watcher:
        return self._hub.watch(start, end, from_revision)

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        return self._hub.subscribe(callback, missed)

    async def current_revision(self) -> int:
        return self._revision

    async def compacted_revision(self) -> int:
        return self._compacted

    # Writing

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        return self._execute(Txn(compares, success, failure))

    def _execute(self, txn: Txn) -> TxnResult:
        self._check(0)
        if self._full and txn.may_put:
            raise NoSpaceError
        result, events = execute(txn, self, self._revision)
        if not events:
            return result
        growth = sum(len(event.kv.key) + len(event.kv.value) for event in events)
        if any(event.type is EventType.PUT for event in events) and self._size + growth > self._quota:
            self._full = True
            raise NoSpaceError
        self._keys.apply(events)
        self._revision += 1
        self._size += growth
        for event in events:
            self._move_lease(event)
        self._hub.publish(events)
        return result

    def _move_lease(self, event: Event) -> None:
        if event.prev is not None and event.prev.lease in self._lease_keys:
            self._lease_keys[event.prev.lease].discard(event.kv.key)
        if event.kv.lease:
            self._lease_keys[event.kv.lease].add(event.kv.key)

    async def compact(self, revision: int) -> None:
        if revision <= self._compacted:
            raise CompactedError(self._compacted)
        if revision > self._revision:
            raise FutureRevisionError(self._revision)
        self._check(0)
        self._compacted = revision
        self._keys.compact(revision)
        self._size = self._keys.size()

    async def grant_lease(self, ttl: int) -> Lease:
        if ttl <= 0:
            raise ValueError("a lease lasts at least one second")
        self._check(0)
        if self._full:
            raise NoSpaceError
        self._last_lease += 1
        self._lease_keys[self._last_lease] = set()
        self._lessor.load([(self._last_lease, ttl)])
        return Lease(self._last_lease, ttl, ttl)

    async def keep_alive(self, lease: int) -> Lease:
        self._check(0)
        return self._lessor.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        self._check(0)
        keys = self._lease_keys.get(lease)
        if keys is None:
            raise LeaseNotFound(lease)
        self._execute(deletes(sorted(keys)))
        del self._lease_keys[lease]
        self._lessor.forget(lease)

    # Keeping

    async def snapshot(self, path: Path) -> None:
        self._check(0)
        write_snapshot(path, Contents(self._revision, self._compacted, list(self._keys.kept()), self._lessor.ttls()))

    def load(self, contents: Contents) -> None:
        """Fill an empty store from a snapshot."""
        self._keys.load(contents.kept)
        self._revision = self._hub.delivered = contents.revision
        self._compacted = contents.compacted_revision
        self._size = self._keys.size()
        self._lease_keys = {lease: set() for lease in contents.leases}
        self._last_lease = max(contents.leases, default=0)
        for kv in self._keys.kept():
            if kv.lease and self.current(kv.key) == kv:
                self._lease_keys[kv.lease].add(kv.key)
        self._lessor.load(contents.leases.items())

    async def status(self) -> Status:
        return Status(self._revision, self._compacted, self._size, self._size, self._quota, len(self._lessor))

    async def defragment(self) -> None:
        """Nothing to do: memory freed by compaction is reused."""

    async def alarms(self) -> Sequence[Alarm]:
        return [Alarm(0, NOSPACE)] if self._full else []

    async def disarm(self) -> None:
        self._full = False

    async def close(self) -> None:
        self._hub.close()
        await self._tasks.aclose()

    async def __aenter__(self) -> MemoryStore:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check(self, revision: int) -> None:
        if self._hub.closed:
            raise StoreClosedError("the store is closed")
        if revision and revision < self._compacted:
            raise CompactedError(self._compacted)
        if revision > self._revision:
            raise FutureRevisionError(self._revision)

    async def _read_history(self, start: str, end: str, from_revision: int, limit: int) -> History:
        if from_revision < self._compacted:
            raise CompactedError(self._compacted)
        events: list[Event] = []
        through = self._revision
        for revision, found in self._keys.history(start, end, from_revision, limit):
            events += found
            if len(events) >= limit:
                through = revision
        return History(events, through)
