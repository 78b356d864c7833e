"""SealedStore: a store whose values of some resources are sealed. Who uses it sees them open.

    watch cache, registry ──▶ SealedStore ──▶ store (SQLite, etcd, memory)
            {"kind":"Secret",…}     │    k8s:enc:secretbox:v1:key1:…
                                    └ `Encryption` says which transformer a resource has, if any

A value that cannot be opened comes out as the marker of `watchcache.unreadable`: one lost key does not take the rest
of the state away. Without an EncryptionConfiguration this layer is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from tiphys.apiserver.encryption.providers import Encryption
from tiphys.apiserver.encryption.transformer import TransformError
from tiphys.apiserver.watchcache.unreadable import unreadable
from tiphys.machinery.errors import internal_error
from tiphys.store import (
    Alarm,
    Compare,
    CompareFailed,
    CompareTarget,
    Deleted,
    Event,
    KeyExists,
    KeyValue,
    Lease,
    Put,
    RangeResult,
    Status,
    Store,
    Subscriber,
    TxnResult,
    Watcher,
)
from tiphys.store.interface import Missed, Operation

NO_VALUE: Final = b""


class SealedStore:
    """See `Store`, and the module. `encryption` may be replaced at any time: then values are sealed by the new one."""

    def __init__(self, inner: Store, encryption: Encryption) -> None:
        self.inner = inner
        self.encryption = encryption
        # Subscribers get the same events: they are opened once.
        self._last: tuple[Sequence[Event], list[Event]] = ((), [])

    async def outdated(self, key: str) -> bool:
        """Whether a key's value is sealed otherwise than it would be now. False when it is not there."""
        transformer = self.encryption.transformer(key)
        if transformer is None:
            return False
        found = await self.inner.get(key)
        if found is None:
            return False
        await self.encryption.prepare((found,))
        try:
            return transformer.open(found.value, self.encryption.context(key))[1]
        except TransformError:
            return False

    # Values

    def _seal(self, key: str, value: bytes) -> bytes:
        transformer = self.encryption.transformer(key)
        if transformer is None:
            return value
        try:
            return transformer.seal(value, self.encryption.context(key))
        except TransformError as error:
            raise internal_error(error) from None  # nothing was written

    def _open(self, kv: KeyValue) -> KeyValue:
        transformer = self.encryption.transformer(kv.key)
        if transformer is None or not kv.version or kv.value == NO_VALUE:  # a deletion, or keys only
            return kv
        try:
            value, _ = transformer.open(kv.value, self.encryption.context(kv.key))
        except TransformError as error:
            value = unreadable(str(error))
        return KeyValue(kv.key, value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)

    def _opened(self, kvs: Sequence[KeyValue]) -> tuple[KeyValue, ...]:
        return tuple(map(self._open, kvs))

    def open_events(self, events: Sequence[Event]) -> list[Event]:
        """The events with their values open."""
        if self._last[0] is not events:
            opened = [
                Event(event.type, self._open(event.kv), None if event.prev is None else self._open(event.prev))
                for event in events
            ]
            self._last = (events, opened)
        return self._last[1]

    # Reading

    @property
    def shared(self) -> bool:
        return self.inner.shared

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        found = await self.inner.get(key, revision=revision)
        if found is None:
            return None
        await self.encryption.prepare((found,))
        return self._open(found)

    async def range(
        self, start: str, end: str, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> RangeResult:
        found = await self.inner.range(start, end, revision=revision, limit=limit, keys_only=keys_only)
        await self.encryption.prepare(found.items)
        return RangeResult(self._opened(found.items), found.revision, found.more, found.count)

    def watch(self, start: str, end: str, *, from_revision: int) -> Watcher:
        return OpeningWatcher(self, self.inner.watch(start, end, from_revision=from_revision))

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        return self.inner.subscribe(lambda events: callback(self.open_events(events)), missed)

    async def current_revision(self) -> int:
        return await self.inner.current_revision()

    async def compacted_revision(self) -> int:
        return await self.inner.compacted_revision()

    # Writing

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        try:
            return await self.inner.create(key, self._seal(key, value), lease=lease)
        except KeyExists as error:
            raise KeyExists(self._open(error.current)) from None

    async def update(self, key: str, value: bytes, *, expect: int, lease: int = 0) -> int:
        try:
            return await self.inner.update(key, self._seal(key, value), expect=expect, lease=lease)
        except CompareFailed as error:
            raise self._open_failure(error) from None

    async def delete(self, key: str, *, expect: int = 0) -> Deleted:
        try:
            deleted = await self.inner.delete(key, expect=expect)
        except CompareFailed as error:
            raise self._open_failure(error) from None
        return Deleted(deleted.revision, self._open(deleted.prev))

    def _open_failure(self, error: CompareFailed) -> CompareFailed:
        current = None if error.current is None else self._open(error.current)
        return CompareFailed(error.key, error.expect, current)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """As `Store.txn`. ValueError: a sealed value can be compared with nothing, it is never twice the same."""
        for compare in compares:
            if compare.target is CompareTarget.VALUE and self.encryption.transformer(compare.key) is not None:
                raise ValueError(f"the value of {compare.key} is sealed and cannot be compared")
        done = await self.inner.txn(compares, self._sealed(success), self._sealed(failure))
        return TxnResult(done.succeeded, done.revision, tuple(map(self._opened, done.responses)))

    def _sealed(self, operations: Sequence[Operation]) -> list[Operation]:
        return [
            Put(operation.key, self._seal(operation.key, operation.value), operation.lease)
            if isinstance(operation, Put)
            else operation
            for operation in operations
        ]

    async def compact(self, revision: int) -> None:
        await self.inner.compact(revision)

    async def grant_lease(self, ttl: int) -> Lease:
        return await self.inner.grant_lease(ttl)

    async def keep_alive(self, lease: int) -> Lease:
        return await self.inner.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self.inner.revoke_lease(lease)

    # Keeping: a snapshot has what is stored, so it is sealed too.

    async def snapshot(self, path: Path) -> None:
        await self.inner.snapshot(path)

    async def status(self) -> Status:
        return await self.inner.status()

    async def defragment(self) -> None:
        await self.inner.defragment()

    async def alarms(self) -> Sequence[Alarm]:
        return await self.inner.alarms()

    async def disarm(self) -> None:
        await self.inner.disarm()

    async def close(self) -> None:
        await self.inner.close()
        await self.encryption.close()


class OpeningWatcher:
    """A `Watcher` of the store inside, its events open."""

    def __init__(self, store: SealedStore, inner: Watcher) -> None:
        self._store = store
        self._inner = inner

    @property
    def revision(self) -> int:
        return self._inner.revision

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Event]:
        events = await anext(self._inner)
        return self._store.open_events(events)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
