"""What a failed call to etcd means, from its gRPC code and its words.

    NOT_APPLIED   it reached nobody, or was turned away at the door: may be made again elsewhere
    UNKNOWN       it may have been applied, or may yet be: only a call that does no harm twice is made again
    an exception  etcd judged it and refused

https://etcd.io/docs/v3.6/learning/api_guarantees/ ; the words are those of etcd's error list, the same from 3.4 on.
"""

from __future__ import annotations

import enum
from typing import Final

import grpc

from tiphys.store.errors import NoSpaceError, StoreError


class Fault(enum.Enum):
    NOT_APPLIED = "not applied"
    UNKNOWN = "unknown"


class CompactedSomewhere(StoreError):
    """The revision asked for is compacted; etcd does not say here which revision is the oldest."""


class InTheFuture(StoreError):
    """The revision asked for is not written yet."""


class NoSuchLease(StoreError):
    """The lease is not known."""


NOT_APPLIED: Final = ("failed to connect", "too many requests", "etcdserver: rpc not supported for learner")
REFUSED: Final[dict[str, type[Exception]]] = {
    "required revision has been compacted": CompactedSomewhere,
    "required revision is a future revision": InTheFuture,
    "requested lease not found": NoSuchLease,
    "duplicate key given in txn request": ValueError,
    "too many operations in txn request": ValueError,
}
# What etcd answers when it has judged a request, and nothing was done.
JUDGED: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def judge(error: grpc.aio.AioRpcError) -> Fault | Exception:
    """What became of the call that ended in `error`."""
    words = error.details() or ""
    if "database space exceeded" in words:
        return NoSpaceError()
    for known, kind in REFUSED.items():
        if known in words:
            return kind(words.removeprefix("etcdserver: "))
    if any(known in words for known in NOT_APPLIED):
        return Fault.NOT_APPLIED
    if error.code() in JUDGED:
        return StoreError(words)
    return Fault.UNKNOWN


def concerns_member(error: grpc.aio.AioRpcError) -> bool:
    """Whether another member might do better: this one is gone, hangs, or has lost the others."""
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    )
