"""What a store can answer instead of a result. Each error names its trigger; messages follow etcd's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiphys.store.interface import KeyValue


class StoreError(Exception):
    """Base of every error a store raises."""


class StoreClosedError(StoreError):
    """The store was closed, or stopped after a disk error it cannot vouch for."""


class StoreTimeoutError(StoreError):
    """There was no answer in time. A write may have been applied, or may yet be: only reading tells."""

    def __init__(self, why: str = "") -> None:
        super().__init__("request timed out" + (f": {why}" if why else ""))


class StoreOpenError(StoreError):
    """The state cannot be opened: `why` is one line for the operator. Nothing was changed on disk."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"cannot open the store in {path}: {why}")
        self.path = path
        self.why = why


class StoreLockedError(StoreOpenError):
    """Another process has the state directory open."""


class StoreCorruptError(StoreOpenError):
    """The files are not a store, are damaged, or were written by a newer version."""


class KeyExists(StoreError):
    """create: the key is there; `current` is what it holds."""

    def __init__(self, current: KeyValue) -> None:
        super().__init__(f"key {current.key} exists at revision {current.mod_revision}")
        self.current = current


class KeyNotFound(StoreError):
    """delete without `expect`: there is no such key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key} not found")
        self.key = key


class CompareFailed(StoreError):
    """update or delete with `expect`: the key is at another revision; `current` is what it holds (None: nothing)."""

    def __init__(self, key: str, expect: int, current: KeyValue | None) -> None:
        found = "absent" if current is None else f"at revision {current.mod_revision}"
        super().__init__(f"key {key} expected at revision {expect} is {found}")
        self.key = key
        self.expect = expect
        self.current = current


class CompactedError(StoreError):
    """The revision asked for is older than what is kept; `compact_revision` is the oldest that can be read."""

    def __init__(self, compact_revision: int) -> None:
        super().__init__("mvcc: required revision has been compacted")
        self.compact_revision = compact_revision


class FutureRevisionError(StoreError):
    """The revision asked for has not been written yet; `revision` is the newest."""

    def __init__(self, revision: int) -> None:
        super().__init__("mvcc: required revision is a future revision")
        self.revision = revision


class LeaseNotFound(StoreError):
    """The lease never was, was revoked, or has expired."""

    def __init__(self, lease: int) -> None:
        super().__init__("requested lease not found")
        self.lease = lease


class NoSpaceError(StoreError):
    """The write would pass the quota, or the disk is full; deletes and compaction still work.

    It was not applied. Only etcd may have applied the very write that passed its quota: it judges the size twice, the
    second time when every member applies the write already.
    """

    def __init__(self, why: str = "database space exceeded") -> None:
        super().__init__(f"mvcc: {why}")
