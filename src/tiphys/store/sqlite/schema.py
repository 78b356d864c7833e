"""The file: one table of all versions of all keys, in the order they were written.

    history   id            key        create_revision  version  lease  value
              (2 << 12)+0   /pods/a    2                1        0      {...}
              (3 << 12)+0   /pods/b    3                1        0      {...}
              (4 << 12)+0   /pods/a    2                2        0      {...}     update
              (5 << 12)+0   /pods/b    0                0        0      NULL      delete (version 0)
              |revision|    position in its transaction, 12 bits

Writes append, watches scan a range of ids, reads find a key's newest id below a revision in the index
(key, id). `value` is the last column, so what reads only the others does not touch its pages.
`meta` has the compacted revision, `floor`, a revision to count on from where a restore raised it, and `nospace`,
which is 1 while that alarm is raised (absent: it never was).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from tiphys.store.interface import FIRST_REVISION, KeyValue

APPLICATION_ID: Final = 0x54495048  # "TIPH"
SCHEMA_VERSION: Final = 1
POSITION_BITS: Final = 12

SCHEMA: Final = f"""
CREATE TABLE history (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, create_revision INTEGER NOT NULL, version INTEGER NOT NULL,
  lease INTEGER NOT NULL, value BLOB);
CREATE INDEX history_by_key ON history (key, id);
CREATE INDEX history_by_lease ON history (lease) WHERE lease != 0;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('compacted', 0), ('floor', {FIRST_REVISION});
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
COLUMNS: Final = "key, value, create_revision, id, version, lease"
INSERT: Final = "INSERT INTO history (id, key, create_revision, version, lease, value) VALUES (?, ?, ?, ?, ?, ?)"

Row = tuple[str, bytes | None, int, int, int, int]  # of COLUMNS


def to_key_value(row: Row) -> KeyValue:
    key, value, create_revision, row_id, version, lease = row
    return KeyValue(key, value or b"", create_revision, row_id >> POSITION_BITS, version, lease)


def to_insert(kv: KeyValue, position: int) -> tuple[int, str, int, int, int, bytes | None]:
    """Parameters of INSERT."""
    row_id = kv.mod_revision << POSITION_BITS | position
    return row_id, kv.key, kv.create_revision, kv.version, kv.lease, kv.value if kv.version else None


def first_id(revision: int) -> int:
    """The smallest id of a revision: `id < first_id(r + 1)` is everything up to r."""
    return revision << POSITION_BITS


def create(path: Path) -> None:
    """Make an empty store file. Atomic: an interrupted run leaves either nothing or a whole file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    finally:
        connection.close()


def meta(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])


def is_full(connection: sqlite3.Connection) -> bool:
    """Whether the alarm for lack of space is raised."""
    return connection.execute("SELECT 1 FROM meta WHERE name = 'nospace' AND value").fetchone() is not None


def set_full(connection: sqlite3.Connection, full: bool) -> None:
    """Raise that alarm, or lift it."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('nospace', ?)", (int(full),))


def newest_revision(connection: sqlite3.Connection) -> int:
    """The store's revision, as the connection's snapshot has it."""
    newest = connection.execute("SELECT max(id) FROM history").fetchone()[0] or 0
    return max(newest >> POSITION_BITS, meta(connection, "floor"))
