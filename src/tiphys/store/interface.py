"""The contract of a store: etcd's model of one revision for everything.

    revision   1        2            3              4              5
    /a         .        put v1       .              put v2         .
    /b         .        .            put v1         .              delete

A store starts at revision 1 and every transaction that changes something takes the next one; all
its changes carry that revision. A key's `create_revision` is the revision that created it (since it
was last deleted), `mod_revision` the one that changed it last, `version` counts changes from 1.
Old versions stay readable and watchable until `compact`.

Guarantees of every implementation:

- A write returns only when it is durable (memory: when it is applied), and only after every subscriber
  has been called with its events; subscribers see all events, once, in the order of revisions.
- A read returns at least everything acknowledged before it began.
- A watcher sees every event of its range from its first revision on, once, in order, never part of a revision,
  or ends with `CompactedError`.
- Ranges are `[start, end)` by code point; `end=""` means the single key `start`. `prefix_end` makes
  the end of a prefix.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

FIRST_REVISION: Final = 1  # of an empty store
END_OF_KEYS: Final = "\U0010ffff"  # an end greater than any key: range("", END_OF_KEYS) is everything


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One version of one key. `lease` 0 means none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class EventType(enum.Enum):
    PUT = "PUT"
    DELETE = "DELETE"


class Event(msgspec.Struct, frozen=True):
    """One change. For DELETE `kv` has the key and the revision of the deletion, version 0, and no value.

    `prev` is what the change replaced; None when the key was created, or when the old version is already compacted.
    """

    type: EventType
    kv: KeyValue
    prev: KeyValue | None


class RangeResult(msgspec.Struct, frozen=True):
    """`items` in key order; `revision`: the store's when read; `more`: the limit cut it; `count`: all in the range."""

    items: tuple[KeyValue, ...]
    revision: int
    more: bool
    count: int


class Deleted(msgspec.Struct, frozen=True):
    revision: int
    prev: KeyValue


class CompareTarget(enum.Enum):
    """What of a key is compared. An absent key has 0 for each number and no value (compares false)."""

    CREATE_REVISION = "create_revision"
    MOD_REVISION = "mod_revision"
    VERSION = "version"
    LEASE = "lease"
    VALUE = "value"


class CompareOperator(enum.Enum):
    EQUAL = "="
    NOT_EQUAL = "!="
    GREATER = ">"
    LESS = "<"


class Compare(msgspec.Struct, frozen=True):
    key: str
    target: CompareTarget
    operand: int | bytes
    operator: CompareOperator = CompareOperator.EQUAL


class Put(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    start: str
    end: str = ""


class Get(msgspec.Struct, frozen=True):
    start: str
    end: str = ""


Operation = Put | Delete | Get


class TxnResult(msgspec.Struct, frozen=True):
    """`responses` has one entry an operation: what Put replaced (0 or 1), Delete removed, Get found.

    `revision` is the transaction's own when it changed something, else the store's when it was judged.
    """

    succeeded: bool
    revision: int
    responses: tuple[tuple[KeyValue, ...], ...]


class Lease(msgspec.Struct, frozen=True):
    """`ttl` as granted and `remaining`, in seconds."""

    id: int
    ttl: int
    remaining: float


class Status(msgspec.Struct, frozen=True):
    """Sizes in bytes. `size` is what the store takes on disk, `size_in_use` without what defragment gives back.

    `quota` is 0 where the store does not tell it (etcd before 3.6).
    """

    revision: int
    compacted_revision: int
    size: int
    size_in_use: int
    quota: int
    leases: int


class Alarm(msgspec.Struct, frozen=True):
    """What a store raises when it must not go on as before. `kind` is NOSPACE or CORRUPT, `member` who raised it.

    With NOSPACE every write that puts something is refused, deletions and reads are not; it stays until `disarm`.
    """

    member: int
    kind: str


NOSPACE: Final = "NOSPACE"
Subscriber = Callable[[Sequence[Event]], None]
# Called with the newest revision when what led to it is lost: the subscriber has to read everything again.
Missed = Callable[[int], None]


class Watcher(Protocol):
    """An open watch: iterate it for batches, each a list of events of whole revisions.

    Iteration raises `CompactedError` when what is next was compacted before it was read, `StoreClosedError`
    when the store closes; it stops after `close`.
    """

    @property
    def revision(self) -> int:
        """Progress: every event of the range up to this revision has been handed out."""

    def __aiter__(self) -> AsyncIterator[list[Event]]: ...

    async def __anext__(self) -> list[Event]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Store(Protocol):
    """A versioned key-value store.

    Every method may raise `StoreClosedError`, every write but a deletion `NoSpaceError`; where the store is remote
    every method may raise `StoreTimeoutError`: a write that ended so may have been applied.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes write to it too: then what this one has seen may not be the newest."""

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        """The key at `revision` (0: now). Raises CompactedError, FutureRevisionError."""

    async def range(
        self, start: str, end: str, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> RangeResult:
        """The keys of a range at `revision` (0: now), at most `limit` (0: all). Raises as `get` does."""

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a new key; its revision. Raises KeyExists, LeaseNotFound."""

    async def update(self, key: str, value: bytes, *, expect: int, lease: int = 0) -> int:
        """Replace a key whose mod_revision is `expect`; the new one. Raises CompareFailed, LeaseNotFound."""

    async def delete(self, key: str, *, expect: int = 0) -> Deleted:
        """Remove a key, if `expect` is given only at that mod_revision. Raises CompareFailed, KeyNotFound."""

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """If all compares hold do `success`, else `failure`: atomically, under one revision. A key is written once."""

    def watch(self, start: str, end: str, *, from_revision: int) -> Watcher:
        """Events of a range from `from_revision` on (0: from now; it may lie in the future)."""

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        """Call `callback` with the events of each revision from now on, in the event loop; returns what ends it.

        `missed` is called when a shared store could not be followed for so long that events are compacted.
        """

    async def compact(self, revision: int) -> None:
        """Forget what only revisions before `revision` could read. Raises CompactedError, FutureRevisionError."""

    async def current_revision(self) -> int:
        """The newest revision, at least that of every write acknowledged anywhere before the call.

        Subscribers have been called with everything up to it.
        """

    async def compacted_revision(self) -> int:
        """The oldest revision that can be read; 0 before the first compaction."""

    async def grant_lease(self, ttl: int) -> Lease:
        """A lease of `ttl` seconds: its keys are deleted, in one revision, when it is not kept alive."""

    async def keep_alive(self, lease: int) -> Lease:
        """Start the lease's time again. Raises LeaseNotFound."""

    async def revoke_lease(self, lease: int) -> None:
        """End the lease and delete its keys. Raises LeaseNotFound."""

    async def snapshot(self, path: Path) -> None:
        """Write the state to a new file that `tiphys.store.restore` reads, while writes go on.

        A remote store gives what is current, without the versions before. Raises FileExistsError.
        """

    async def status(self) -> Status: ...

    async def defragment(self) -> None:
        """Give space freed by compaction back to the disk. Writes wait meanwhile."""

    async def alarms(self) -> Sequence[Alarm]:
        """The alarms that are raised. A store whose quota is passed raises NOSPACE by itself."""

    async def disarm(self) -> None:
        """Lift every alarm. Where its cause is still there, it is raised again by the next write."""

    async def close(self) -> None: ...


def prefix_end(prefix: str) -> str:
    """The end of the range of all keys that start with `prefix`."""
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1])
        if code < 0x10FFFF:
            # Surrogates are no characters: after U+D7FF comes U+E000.
            following = 0xE000 if code == 0xD7FF else code + 1
            return prefix[: length - 1] + chr(following)
    return END_OF_KEYS


def in_range(key: str, start: str, end: str) -> bool:
    """Whether `key` lies in `[start, end)`, or is `start` where `end` is empty."""
    return start <= key < end if end else key == start
