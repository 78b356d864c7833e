"""Snapshots: a SQLite file with the schema of `sqlite/schema.py`, whichever engine wrote it.

So a snapshot of a store in memory can be opened durably, and `sqlite3` can inspect it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.store.errors import StoreCorruptError, StoreError, StoreOpenError
from tiphys.store.interface import KeyValue
from tiphys.store.sqlite import schema
from tiphys.store.sqlite.files import DATABASE, check_file

SQLITE: Final = b"SQLite format 3\0"  # what SQLite's files begin with


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


@dataclass(frozen=True, slots=True)
class Summary:
    """What a snapshot holds. `hash` is the SHA-256 of its file, `keys` counts versions, `format` is tiphys or etcd."""

    hash: str
    revision: int
    compacted: int
    keys: int
    size: int  # bytes
    format: str


def summarize(path: Path) -> Summary | None:
    """What is in a snapshot; None when it is none of ours. Raises StoreCorruptError for a damaged one, OSError."""
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            return None
        digest = hashlib.file_digest(file, "sha256")  # of the rest; the beginning is the same in all
    check_file(path)
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise StoreCorruptError(str(path), "it is damaged")
        revision, compacted = schema.newest_revision(connection), schema.meta(connection, "compacted")
        keys = int(connection.execute("SELECT count(*) FROM history").fetchone()[0])
    finally:
        connection.close()
    return Summary(digest.hexdigest(), revision, compacted, keys, path.stat().st_size, "tiphys")


def copy_database(database: Path, path: Path) -> None:
    """Write a store's file as it is now to the new file `path`, while another process writes to it.

    `path` is whole and on disk, or not there. Raises FileExistsError, OSError, StoreError.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # it has secrets in it
    try:
        connection = sqlite3.connect(database.resolve().as_uri() + "?mode=rw", uri=True)
        try:
            connection.execute("VACUUM INTO ?", (str(partial),))
        finally:
            connection.close()
        descriptor = os.open(partial, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(partial, path)
    except sqlite3.Error as error:
        raise StoreError(f"cannot write the snapshot {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


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
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = target.with_suffix(".partial")
    shutil.copyfile(snapshot, partial)
    connection = sqlite3.connect(partial, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        if bump_revision:
            raised = schema.newest_revision(connection) + bump_revision
            connection.execute("UPDATE meta SET value = ? WHERE name IN ('floor', 'compacted')", (raised,))
        schema.set_full(connection, False)  # alarms are of the store that was, as with etcd's snapshots
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    os.replace(partial, target)
