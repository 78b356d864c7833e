"""The cluster's state: bytes under keys, and revisions. Knows no kinds of objects and no HTTP.

`interface.py` is the contract; `sqlite/` is the embedded default, `memory/` forgets.
"""

from __future__ import annotations

from pathlib import Path

from tiphys.store.errors import (
    CompactedError,
    CompareFailed,
    FutureRevisionError,
    KeyExists,
    KeyNotFound,
    LeaseNotFound,
    NoSpaceError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreOpenError,
)
from tiphys.store.interface import (
    END_OF_KEYS,
    FIRST_REVISION,
    Compare,
    CompareOperator,
    CompareTarget,
    Delete,
    Deleted,
    Event,
    EventType,
    Get,
    KeyValue,
    Lease,
    Put,
    RangeResult,
    Status,
    Store,
    Subscriber,
    TxnResult,
    Watcher,
    prefix_end,
)
from tiphys.store.memory import MemoryStore
from tiphys.store.snapshot import restore
from tiphys.store.sqlite import SQLiteStore

__all__ = [
    "END_OF_KEYS",
    "FIRST_REVISION",
    "CompactedError",
    "Compare",
    "CompareFailed",
    "CompareOperator",
    "CompareTarget",
    "Delete",
    "Deleted",
    "Event",
    "EventType",
    "FutureRevisionError",
    "Get",
    "KeyExists",
    "KeyNotFound",
    "KeyValue",
    "Lease",
    "LeaseNotFound",
    "MemoryStore",
    "NoSpaceError",
    "Put",
    "RangeResult",
    "SQLiteStore",
    "Status",
    "Store",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreLockedError",
    "StoreOpenError",
    "Subscriber",
    "TxnResult",
    "Watcher",
    "open_store",
    "prefix_end",
    "restore",
]


async def open_store(where: str | Path, *, quota: int = 2 << 30) -> Store:
    """The store named by `where`: `memory`, `sqlite:DIRECTORY`, or a directory. `quota` in bytes.

    Raises StoreOpenError, ValueError for a URL no engine serves.
    """
    text = str(where)
    if text in ("memory", "memory:"):
        return await MemoryStore(quota=quota).start()
    if "://" in text:
        raise ValueError(f"no store engine serves {text}")
    return await SQLiteStore.open(text.removeprefix("sqlite:"), quota=quota)
