"""The cluster's state: bytes under keys, and revisions. Knows no kinds of objects and no HTTP.

`interface.py` is the contract; `sqlite/` is the embedded default, `etcd/` the distributed one, `memory/` forgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

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
    StoreTimeoutError,
)
from tiphys.store.interface import (
    END_OF_KEYS,
    FIRST_REVISION,
    NOSPACE,
    Alarm,
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
    "DEFAULT_QUOTA",
    "END_OF_KEYS",
    "FIRST_REVISION",
    "NOSPACE",
    "Alarm",
    "CompactedError",
    "Compare",
    "CompareFailed",
    "CompareOperator",
    "CompareTarget",
    "Delete",
    "Deleted",
    "EtcdAccess",
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
    "StoreTimeoutError",
    "Subscriber",
    "TxnResult",
    "Watcher",
    "open_store",
    "prefix_end",
    "restore",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAccess:
    """How to reach an etcd cluster besides its addresses, and where keys are in it.

    Paths are PEM files, `prefix` is --etcd-prefix, `layout` as `store.etcd.wire.Keys` has it.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    prefix: str = "/registry"
    layout: Mapping[str, str] = field(default_factory=dict)


DEFAULT_QUOTA: Final = 2 << 30  # bytes, as etcd's


async def open_store(where: str | Path, *, quota: int = DEFAULT_QUOTA, etcd: EtcdAccess | None = None) -> Store:
    """The store named by `where`: `memory`, `sqlite:DIRECTORY`, a directory, or URLs of etcd's members with commas.

    `quota` in bytes, of the engines that are ours. Raises StoreOpenError, ValueError for a URL no engine serves.
    """
    text = str(where)
    if text in ("memory", "memory:"):
        return await MemoryStore(quota=quota).start()
    if text.startswith(("http://", "https://")):
        # gRPC is a third of this package's import time: paid only by who uses it.
        from tiphys.store.etcd import EtcdStore, TLSFiles

        access = etcd or EtcdAccess()
        tls = TLSFiles(ca=access.ca, certificate=access.certificate, key=access.key)
        return await EtcdStore.open(text.split(","), tls=tls, prefix=access.prefix, layout=access.layout)
    if "://" in text:
        raise ValueError(f"no store engine serves {text}")
    store = await SQLiteStore.open(text.removeprefix("sqlite:"), quota=quota)
    await store.listen()
    return store
