"""The state directory: `state.db` with SQLite's -wal and -shm, and `lock`, held while a process has it open."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from tiphys.store.errors import StoreCorruptError, StoreLockedError, StoreOpenError
from tiphys.store.sqlite import schema

DATABASE: Final = "state.db"
LOCK: Final = "lock"
# Up to this size every page is checked at start (about 2 ms a megabyte); damage in a larger file is found when read.
CHECKED_SIZE: Final = 64 << 20


def lock_directory(directory: Path) -> int:
    """Create the directory if need be and take its lock; the file descriptor holds it. Raises StoreOpenError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreOpenError(str(directory), error.strerror or str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLockedError(str(directory), "another process has it open") from error
    return descriptor


def prepare_database(directory: Path) -> Path:
    """The path of a sound database file, made when there is none. Raises StoreOpenError."""
    path = directory / DATABASE
    try:
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            schema.create(partial)
            os.replace(partial, path)
        elif not os.access(path, os.R_OK | os.W_OK):
            raise StoreOpenError(str(directory), f"{DATABASE} is not writable")
        check_file(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise StoreOpenError(str(directory), getattr(error, "strerror", None) or str(error)) from error
    return path


def check_file(path: Path) -> None:
    """Raises StoreCorruptError when `path` is not a whole store of a version we know."""
    if not path.is_file():
        raise StoreOpenError(str(path), "no such file")
    try:
        connection = sqlite3.connect(path.resolve().as_uri() + "?mode=rw", uri=True)
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION_ID:
                raise StoreCorruptError(str(path), "it is a database, but not a store of Tiphys")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != schema.SCHEMA_VERSION:
                raise StoreCorruptError(str(path), f"it has format {version}, not {schema.SCHEMA_VERSION}")
            if path.stat().st_size <= CHECKED_SIZE:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise StoreCorruptError(str(path), f"it is damaged ({found.splitlines()[-1]}); restore a snapshot")
            schema.newest_revision(connection)
        finally:
            connection.close()
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, TypeError) as error:
        raise StoreCorruptError(str(path), f"it is damaged ({error}); restore a snapshot") from error
