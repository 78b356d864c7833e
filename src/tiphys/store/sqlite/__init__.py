"""The store in one SQLite file: the embedded default, durable before anything is acknowledged."""

from tiphys.store.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
