"""Reads, each in one snapshot of the database, on a connection of their own: writers are not in their way.

A point read is a lookup in the page cache and is done where it is asked for; ranges and history may be
long and run in the reader's thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from tiphys.store.errors import CompactedError, FutureRevisionError, StoreError
from tiphys.store.interface import Event, EventType, KeyValue, RangeResult
from tiphys.store.sqlite import schema
from tiphys.store.watch import History

T = TypeVar("T")

AT: Final = f"SELECT {schema.COLUMNS} FROM history WHERE key = ? AND id < ? ORDER BY id DESC LIMIT 1"
NEWEST_IDS: Final = "SELECT max(id) FROM history WHERE key >= ? AND key < ? AND id < ? GROUP BY key"
COUNT: Final = f"SELECT count(*) FROM history WHERE id IN ({NEWEST_IDS}) AND version > 0"
RANGE: Final = """SELECT {columns} FROM ({newest}) AS newest CROSS JOIN history ON history.id = newest.id
  WHERE version > 0 ORDER BY newest.key LIMIT ?"""
RANGE_IDS: Final = NEWEST_IDS.replace("max(id)", "max(id) AS id, key")
RANGE_COLUMNS: Final = "history.key, value, create_revision, history.id, version, lease"
# By id, not by key: what is new is at the end of the table.
HISTORY: Final = f"SELECT {schema.COLUMNS} FROM history NOT INDEXED WHERE id >= ? AND {{keys}} ORDER BY id LIMIT ?"


class Reader:
    """Two read-only connections: one for the event loop, one for the reader's thread."""

    def __init__(self, path: Path) -> None:
        self._here = _connect(path)
        self._there = _connect(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")

    def get(self, key: str, revision: int) -> KeyValue | None:
        """The key at `revision` (0: now). Raises CompactedError, FutureRevisionError."""
        if not revision:
            row = self._here.execute(AT, (key, schema.first_id(1 << 50))).fetchone()
        else:
            row = _snapshot(self._here, lambda c: _get_at(c, key, revision))
        return schema.to_key_value(row) if row is not None and row[4] else None

    async def range(self, start: str, end: str, revision: int, limit: int, keys_only: bool) -> RangeResult:
        return await self._run(lambda c: _range(c, start, end or start + "\0", revision, limit, keys_only))

    async def history(self, start: str, end: str, from_revision: int, limit: int) -> History:
        """See `watch.ReadHistory`."""
        return await self._run(lambda c: _history(c, start, end, from_revision, limit))

    async def copy_to(self, path: Path) -> None:
        """Write the whole database, without its holes, to a new file. Raises FileExistsError, StoreError."""

        def vacuum() -> None:
            if path.exists():
                raise FileExistsError(path)
            try:
                self._there.execute("VACUUM INTO ?", (str(path),))
            except sqlite3.Error as error:
                path.unlink(missing_ok=True)
                raise StoreError(f"cannot write the snapshot {path}: {error}") from error

        await asyncio.get_running_loop().run_in_executor(self._thread, vacuum)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
        self._here.close()
        self._there.close()

    async def _run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, _snapshot, self._there, read)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path.resolve().as_uri() + "?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA cache_size = -2048")  # long reads pass through it once; the kernel caches the file
    return connection


def _snapshot(connection: sqlite3.Connection, read: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN")
    try:
        return read(connection)
    finally:
        connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, revision: int) -> int:
    """The store's revision, if `revision` can be read."""
    newest = schema.newest_revision(connection)
    if revision:
        compacted = schema.meta(connection, "compacted")
        if revision < compacted:
            raise CompactedError(compacted)
        if revision > newest:
            raise FutureRevisionError(newest)
    return newest


def _get_at(connection: sqlite3.Connection, key: str, revision: int) -> schema.Row | None:
    _check(connection, revision)
    row: schema.Row | None = connection.execute(AT, (key, schema.first_id(revision + 1))).fetchone()
    return row


def _range(
    connection: sqlite3.Connection, start: str, end: str, revision: int, limit: int, keys_only: bool
) -> RangeResult:
    newest = _check(connection, revision)
    bounds = (start, end, schema.first_id((revision or newest) + 1))
    columns = RANGE_COLUMNS.replace("value", "NULL") if keys_only else RANGE_COLUMNS
    query = RANGE.format(columns=columns, newest=RANGE_IDS)
    items = tuple(schema.to_key_value(row) for row in connection.execute(query, (*bounds, limit or -1)))
    count = len(items)
    if limit and count == limit:
        count = connection.execute(COUNT, bounds).fetchone()[0]
    return RangeResult(items, newest, len(items) < count, count)


def _history(connection: sqlite3.Connection, start: str, end: str, from_revision: int, limit: int) -> History:
    compacted = schema.meta(connection, "compacted")
    if from_revision < compacted:
        raise CompactedError(compacted)
    through = schema.newest_revision(connection)
    keys, bounds = ("key >= ? AND key < ?", (start, end)) if end else ("key = ?", (start,))
    query = HISTORY.format(keys=keys)
    rows = connection.execute(query, (schema.first_id(from_revision), *bounds, limit)).fetchall()
    if len(rows) == limit:
        # The last revision may be cut; complete it.
        last_id = rows[-1][3]
        through = last_id >> schema.POSITION_BITS
        rows += connection.execute(
            f"SELECT {schema.COLUMNS} FROM history NOT INDEXED WHERE id > ? AND id < ? AND {keys} ORDER BY id",
            (last_id, schema.first_id(through + 1), *bounds),
        ).fetchall()
    return History([_event(connection, row) for row in rows], through)


def _event(connection: sqlite3.Connection, row: schema.Row) -> Event:
    kv = schema.to_key_value(row)
    prev = None
    if kv.version != 1:
        before: schema.Row | None = connection.execute(AT, (kv.key, row[3])).fetchone()
        prev = schema.to_key_value(before) if before is not None and before[4] else None
    return Event(EventType.PUT if kv.version else EventType.DELETE, kv, prev)
