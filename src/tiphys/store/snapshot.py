"""Snapshots: a SQLite file with the schema of `sqlite/schema.py`, whichever engine wrote it.

So a snapshot of a store in memory can be opened durably, and `sqlite3` can inspect it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tiphys.store.errors import StoreOpenError
from tiphys.store.interface import KeyValue
from tiphys.store.sqlite import schema
from tiphys.store.sqlite.files import DATABASE, check_file


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything a store knows. `kept` has all kept versions; `leases` maps id to ttl in seconds."""

    revision: int
    compacted_revision: int
    kept: list[KeyValue]
    leases: dict[int, int]


def write_snapshot(path: Path, contents: Contents) -> None:
    """Write `contents` to the new file `path`."""
    if path.exists():
        raise FileExistsError(path)
    schema.create(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN")
        positions: dict[int, int] = {}
        for kv in sorted(contents.kept, key=lambda kv: (kv.mod_revision, kv.key)):
            position = positions.get(kv.mod_revision, 0)
            connection.execute(schema.INSERT, schema.to_insert(kv, position))
            positions[kv.mod_revision] = position + 1
        connection.executemany("INSERT INTO leases VALUES (?, ?)", contents.leases.items())
        connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (contents.compacted_revision,))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'floor'", (contents.revision,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = DELETE")  # one file, with no -wal beside it
    finally:
        connection.close()


def read_snapshot(path: Path) -> Contents:
    """Raises StoreCorruptError when the file is not a whole snapshot."""
    check_file(path)
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)
    try:
        rows = connection.execute(f"SELECT {schema.COLUMNS} FROM history ORDER BY id")
        kept = [schema.to_key_value(row) for row in rows]
        leases = dict(connection.execute("SELECT id, ttl FROM leases"))
        return Contents(schema.newest_revision(connection), schema.meta(connection, "compacted"), kept, leases)
    finally:
        connection.close()


def restore(snapshot: Path, directory: Path, *, bump_revision: int = 0) -> None:
    """Make the state directory of a SQLite store from a snapshot.

    `bump_revision` raises the revision and marks everything before as compacted, so that clients who saw revisions
    newer than the snapshot list again instead of missing events (etcdutl's --bump-revision --mark-compacted).
    Raises StoreCorruptError for a bad snapshot and StoreOpenError when the directory already holds a store.
    """
    check_file(snapshot)
    target = directory / DATABASE
    if target.exists():
        raise StoreOpenError(str(directory), "it already holds a store; restore into an empty directory")
    directory.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copyfile(snapshot, partial)
    connection = sqlite3.connect(partial, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        if bump_revision:
            raised = schema.newest_revision(connection) + bump_revision
            connection.execute("UPDATE meta SET value = ? WHERE name IN ('floor', 'compacted')", (raised,))
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    os.replace(partial, target)
