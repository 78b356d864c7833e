"""What the committer's thread does with the writing connection: apply transactions, compact, keep leases."""

from __future__ import annotations

import sqlite3
from typing import Final

from tiphys.base.log import get_logger
from tiphys.store.errors import CompactedError, FutureRevisionError, LeaseNotFound, NoSpaceError
from tiphys.store.interface import Event, EventType, KeyValue, Lease
from tiphys.store.sqlite import schema
from tiphys.store.sqlite.committer import Done
from tiphys.store.transactions import Txn, deletes, execute

log = get_logger(__name__)

ROOM: Final = 16 << 20  # bytes written at most between two looks at the size
REMEMBERED: Final = 1024  # keys, with their newest values
REMEMBERED_BYTES: Final = 8192  # larger values are read again: few are, and they are what would take the memory
COMPACTION_CHUNK: Final = 5_000  # ids looked at in one transaction, so that writers wait milliseconds

CURRENT: Final = f"SELECT {schema.COLUMNS} FROM history WHERE key = ? ORDER BY id DESC LIMIT 1"
CURRENT_RANGE: Final = f"""SELECT {schema.COLUMNS} FROM history WHERE id IN
  (SELECT max(id) FROM history WHERE key >= ? AND key < ? GROUP BY key) AND version > 0 ORDER BY key"""
# Replaced at or before the revision, or a deletion before it.
COMPACT: Final = """DELETE FROM history WHERE id >= ?1 AND id < ?2 AND (version = 0 OR EXISTS
  (SELECT 1 FROM history AS later WHERE later.key = history.key AND later.id > history.id AND later.id < ?3))"""
LEASED_KEYS: Final = """SELECT DISTINCT key FROM history AS h WHERE lease = ?1 AND lease != 0 AND NOT EXISTS
  (SELECT 1 FROM history AS later WHERE later.key = h.key AND later.id > h.id) ORDER BY key"""


class Database:
    """The state behind the writing connection; a `View` for transactions. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, quota: int) -> None:
        self.connection = connection
        self.quota = quota
        self._room = 0  # bytes that surely fit before the size has to be looked at again
        self._page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self.reload()

    def reload(self) -> None:
        """Read again what is kept in memory, after opening and after a rollback."""
        # The newest versions of what was written last, None for what was deleted: it is mostly written again soon.
        self._newest: dict[str, KeyValue | None] = {}
        self.revision = schema.newest_revision(self.connection)
        self.compacted = schema.meta(self.connection, "compacted")
        self.leases: dict[int, int] = dict(self.connection.execute("SELECT id, ttl FROM leases"))
        self.full = schema.is_full(self.connection)

    def current(self, key: str) -> KeyValue | None:
        if key in self._newest:
            return self._newest[key]
        row = self.connection.execute(CURRENT, (key,)).fetchone()
        return schema.to_key_value(row) if row is not None and row[4] else None

    def current_range(self, start: str, end: str) -> list[KeyValue]:
        return [schema.to_key_value(row) for row in self.connection.execute(CURRENT_RANGE, (start, end))]

    def has_lease(self, lease: int) -> bool:
        return lease in self.leases

    def apply(self, txn: Txn) -> Done:
        """Raises NoSpaceError, LeaseNotFound, ValueError before anything is written."""
        if self.full and txn.may_put:
            raise NoSpaceError
        result, events = execute(txn, self, self.revision)
        if any(event.type is EventType.PUT for event in events):
            self._check_quota(events)
        for position, event in enumerate(events):
            self.connection.execute(schema.INSERT, schema.to_insert(event.kv, position))
            self._remember(event)
        self.revision += bool(events)
        return Done(result, events)

    def _remember(self, event: Event) -> None:
        kv, newest = event.kv, self._newest
        newest.pop(kv.key, None)
        if len(kv.value) > REMEMBERED_BYTES:
            return
        newest[kv.key] = kv if event.type is EventType.PUT else None
        if len(newest) > REMEMBERED:
            del newest[next(iter(newest))]

    def size(self) -> tuple[int, int]:
        """Bytes of the file, and of what of it is in use."""
        pages = int(self.connection.execute("PRAGMA page_count").fetchone()[0])
        free = int(self.connection.execute("PRAGMA freelist_count").fetchone()[0])
        return pages * self._page_size, (pages - free) * self._page_size

    def _check_quota(self, events: list[Event]) -> None:
        needed = sum(len(event.kv.key) + len(event.kv.value) for event in events)
        # Asking for the size costs as much as an insert. A row takes less than twice its content and half a page.
        cost = 2 * needed + len(events) * self._page_size // 2
        self._room -= cost
        if self._room >= 0:
            return
        # Space freed by compaction counts as free at once, so a store that is full recovers by compacting.
        left = self.quota - self.size()[1]
        self._room = min(left, ROOM) - cost
        if needed > left:
            log.error("the quota of %d bytes is passed: no more is written until the alarm is lifted", self.quota)
            self.set_full(True)
            raise NoSpaceError

    def set_full(self, full: bool) -> Done:
        """Raise the alarm for lack of space, or lift it. It outlives a restart."""
        schema.set_full(self.connection, full)
        self.full = full
        self._room = 0
        return Done(None)

    def begin_compaction(self, revision: int) -> Done:
        """Refuse reads below `revision` from now on; the result is the compacted revision before."""
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        if revision > self.revision:
            raise FutureRevisionError(self.revision)
        self.connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (revision,))
        before, self.compacted = self.compacted, revision
        return Done(before)

    def compact_chunk(self, revision: int, after: int) -> Done:
        """Delete what a compaction at `revision` drops of the next ids after `after`; the last of them, or None."""
        last = self.connection.execute(
            "SELECT max(id) FROM (SELECT id FROM history WHERE id > ? AND id < ? ORDER BY id LIMIT ?)",
            (after, schema.first_id(revision + 1), COMPACTION_CHUNK),
        ).fetchone()[0]
        if last is None:
            return Done(None)
        oldest_kept_deletion = schema.first_id(revision)
        end = min(last + 1, oldest_kept_deletion)
        self.connection.execute(COMPACT, (after + 1, end, schema.first_id(revision + 1)))
        return Done(last)

    def grant_lease(self, ttl: int) -> Done:
        if self.full:
            raise NoSpaceError
        lease = self.connection.execute("INSERT INTO leases (ttl) VALUES (?)", (ttl,)).lastrowid
        assert lease is not None
        self.leases[lease] = ttl
        return Done(Lease(lease, ttl, ttl))

    def revoke_lease(self, lease: int) -> Done:
        if lease not in self.leases:
            raise LeaseNotFound(lease)
        keys = [key for (key,) in self.connection.execute(LEASED_KEYS, (lease,))]
        done = self.apply(deletes(keys))
        self.connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
        del self.leases[lease]
        return done
