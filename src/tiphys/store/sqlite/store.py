"""SQLiteStore: writes go through the committer's thread, reads have connections of their own, events go to the hub."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.tasks import Supervised
from tiphys.store.errors import StoreClosedError, StoreCorruptError
from tiphys.store.interface import (
    NOSPACE,
    Alarm,
    Compare,
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
from tiphys.store.sqlite.committer import Committer, Done, Job
from tiphys.store.sqlite.database import Database
from tiphys.store.sqlite.files import lock_directory, prepare_database
from tiphys.store.sqlite.maintenance import THE_MEMBER, MaintenanceServer
from tiphys.store.sqlite.reader import Reader
from tiphys.store.transactions import Txn
from tiphys.store.verbs import Verbs
from tiphys.store.watch import WatchHub

DEFAULT_QUOTA: Final = 2 << 30  # bytes, as etcd's default
# 500 pages of 4 kB: measured, p99 of 64 writers 6 ms; 4,000 pages made it 17 ms, since checkpoints sync longer.
PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -8192",  # what is read is in the watch cache; writes touch inner pages and the newest ones
    "wal_autocheckpoint = 500",
    "journal_size_limit = 67108864",
)


class SQLiteStore(Verbs):
    """See `Store`. Made by `open`; one process may have a directory open."""

    def __init__(self, directory: Path, lock: int, path: Path, quota: int, clock: Clock) -> None:
        self._directory = directory
        self._lock = lock
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        self._database = Database(self._connection, quota)
        self._reader = Reader(path)
        self._hub = WatchHub(self._reader.history, self._database.revision)
        self._committer = Committer(self._connection, self._hub.publish, self._database.reload)
        self._clock = clock
        self._lessor = Lessor(clock, self.revoke_lease)
        self._lessor.load(self._database.leases.items())
        self._tasks = AsyncExitStack()
        self._maintenance: MaintenanceServer | None = None

    @classmethod
    async def open(
        cls, directory: Path | str, *, quota: int = DEFAULT_QUOTA, clock: Clock | None = None
    ) -> SQLiteStore:
        """Open the store in a state directory, made when absent; `quota` in bytes.

        Raises StoreLockedError, StoreCorruptError or StoreOpenError, each with one line that says what is wrong.
        """
        directory = Path(directory)
        lock = lock_directory(directory)
        try:
            path = await asyncio.to_thread(prepare_database, directory)
            store = cls(directory, lock, path, quota, clock or SystemClock())
        except sqlite3.DatabaseError as error:
            os.close(lock)
            raise StoreCorruptError(str(directory), str(error)) from error
        except BaseException:
            os.close(lock)
            raise
        tasks = await store._tasks.enter_async_context(Supervised(store._clock))
        tasks.spawn(store._lessor.run, name="store-leases", restart=True)
        return store

    @property
    def shared(self) -> bool:
        return False

    # Reading

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        self._check_open()
        return self._reader.get(key, revision)

    async def range(
        self, start: str, end: str, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> RangeResult:
        self._check_open()
        return await self._reader.range(start, end, revision, limit, keys_only)

    def watch(self, start: str, end: str, *, from_revision: int) -> Watcher:
        return self._hub.watch(start, end, from_revision)

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        return self._hub.subscribe(callback, missed)

    async def current_revision(self) -> int:
        # What is published, not what the committer is about to sync.
        return self._hub.delivered

    async def compacted_revision(self) -> int:
        return self._database.compacted

    # Writing

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        txn = Txn(compares, success, failure)
        result: TxnResult = await self._committer.submit(lambda: self._database.apply(txn))
        return result

    async def compact(self, revision: int) -> None:
        await self._committer.submit(lambda: self._database.begin_compaction(revision))
        after: int | None = 0
        while after is not None:
            after = await self._committer.submit(self._compaction_step(revision, after))

    def _compaction_step(self, revision: int, after: int) -> Job:
        return lambda: self._database.compact_chunk(revision, after)

    async def grant_lease(self, ttl: int) -> Lease:
        if ttl <= 0:
            raise ValueError("a lease lasts at least one second")
        lease: Lease = await self._committer.submit(lambda: self._database.grant_lease(ttl))
        self._lessor.load([(lease.id, ttl)])
        return lease

    async def keep_alive(self, lease: int) -> Lease:
        self._check_open()
        return self._lessor.keep_alive(lease)

    async def revoke_lease(self, lease: int) -> None:
        await self._committer.submit(lambda: self._database.revoke_lease(lease))
        self._lessor.forget(lease)

    # Keeping

    async def snapshot(self, path: Path) -> None:
        self._check_open()
        await self._reader.copy_to(path)

    async def status(self) -> Status:
        size, in_use = await self._committer.submit(lambda: Done(self._database.size()))
        database = self._database
        return Status(self._hub.delivered, database.compacted, size, in_use, database.quota, len(self._lessor))

    async def defragment(self) -> None:
        def vacuum() -> Done:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return Done(None)

        self._check_open()
        await self._committer.submit(vacuum, alone=True)

    async def alarms(self) -> Sequence[Alarm]:
        self._check_open()
        return [Alarm(THE_MEMBER, NOSPACE)] if self._database.full else []

    async def disarm(self) -> None:
        await self._committer.submit(lambda: self._database.set_full(False))

    async def listen(self) -> None:
        """Let other processes of the same user have the upkeep done (`maintenance`)."""
        self._maintenance = MaintenanceServer(self, self._directory)
        await self._maintenance.start()

    async def close(self) -> None:
        """Finish the writes that were begun, then let go of the directory. Closing twice is harmless."""
        if self._hub.closed:
            return
        if self._maintenance is not None:
            await self._maintenance.stop()
        self._hub.close()
        await self._tasks.aclose()
        await self._committer.close()
        await self._reader.close()
        self._connection.close()
        os.close(self._lock)

    def _check_open(self) -> None:
        if self._hub.closed:
            raise StoreClosedError("the store is closed")
