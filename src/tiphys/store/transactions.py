"""What a transaction does, as a function of what the store holds: shared by the engines we own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from tiphys.store.errors import LeaseNotFound
from tiphys.store.interface import (
    Compare,
    CompareOperator,
    CompareTarget,
    Delete,
    Event,
    EventType,
    Get,
    KeyValue,
    Operation,
    Put,
    TxnResult,
    in_range,
)

MAX_OPERATIONS: Final = 4096  # in one transaction; the SQLite engine numbers them in 12 bits

OPERATORS: Final[dict[CompareOperator, Callable[[Any, Any], bool]]] = {
    CompareOperator.EQUAL: operator.eq,
    CompareOperator.NOT_EQUAL: operator.ne,
    CompareOperator.GREATER: operator.gt,
    CompareOperator.LESS: operator.lt,
}


class View(Protocol):
    """What a transaction is judged against."""

    def current(self, key: str) -> KeyValue | None: ...

    def current_range(self, start: str, end: str) -> list[KeyValue]: ...

    def has_lease(self, lease: int) -> bool: ...


class Txn(msgspec.Struct, frozen=True):
    compares: Sequence[Compare]
    success: Sequence[Operation]
    failure: Sequence[Operation] = ()

    @property
    def may_put(self) -> bool:
        """Whether it puts something, however its comparisons end: then a store without space refuses it, as etcd."""
        return any(isinstance(operation, Put) for operation in (*self.success, *self.failure))


def holds(compare: Compare, current: KeyValue | None) -> bool:
    """Whether one comparison is true of a key's current version."""
    if current is None:
        if compare.target is CompareTarget.VALUE:
            return False
        actual: Any = 0
    else:
        actual = getattr(current, compare.target.value)
    return OPERATORS[compare.operator](actual, compare.operand)


def execute(txn: Txn, view: View, revision: int) -> tuple[TxnResult, list[Event]]:
    """Judge `txn` and return its result with the events it makes, none of them applied yet.

    `revision` is the store's now; events carry `revision + 1`. Raises LeaseNotFound, and ValueError for a
    transaction that writes a key twice or is too long.
    """
    found = [view.current(compare.key) for compare in txn.compares]
    succeeded = all(map(holds, txn.compares, found))
    operations = txn.success if succeeded else txn.failure
    if len(operations) == 1 and isinstance(operations[0], Put):  # nearly every write there is
        put = operations[0]
        same = len(found) == 1 and txn.compares[0].key == put.key
        event = put_event(put, found[0] if same else view.current(put.key), view, revision + 1)
        return TxnResult(succeeded, revision + 1, ((event.prev,) if event.prev else (),)), [event]
    changed: dict[str, Event] = {}
    responses = tuple(_apply(operation, view, changed, revision + 1) for operation in operations)
    if len(changed) > MAX_OPERATIONS:
        raise ValueError(f"a transaction changes at most {MAX_OPERATIONS} keys")
    return TxnResult(succeeded, revision + bool(changed), responses), list(changed.values())


def put_event(put: Put, current: KeyValue | None, view: View, revision: int) -> Event:
    """The event of one Put over `current`."""
    if put.lease and not view.has_lease(put.lease):
        raise LeaseNotFound(put.lease)
    created, version = (revision, 1) if current is None else (current.create_revision, current.version + 1)
    return Event(EventType.PUT, KeyValue(put.key, put.value, created, revision, version, put.lease), current)


def delete_event(current: KeyValue, revision: int) -> Event:
    """The event of deleting `current`."""
    return Event(EventType.DELETE, KeyValue(current.key, b"", 0, revision, 0), current)


def _apply(operation: Operation, view: View, changed: dict[str, Event], revision: int) -> tuple[KeyValue, ...]:
    if isinstance(operation, Get):
        return tuple(_read(operation, view, changed))
    if isinstance(operation, Put):
        if operation.key in changed:
            raise ValueError(f"duplicate key given in txn request: {operation.key}")
        current = view.current(operation.key)
        changed[operation.key] = put_event(operation, current, view, revision)
        return () if current is None else (current,)
    if any(in_range(key, operation.start, operation.end) for key in changed):
        raise ValueError("duplicate key given in txn request")
    doomed = _read(Get(operation.start, operation.end), view, changed)
    for current in doomed:
        changed[current.key] = delete_event(current, revision)
    return tuple(doomed)


def _read(get: Get, view: View, changed: dict[str, Event]) -> list[KeyValue]:
    """What a range holds with the transaction's own changes so far on top."""
    if get.end:
        found = {kv.key: kv for kv in view.current_range(get.start, get.end)}
    else:
        current = view.current(get.start)
        found = {} if current is None else {get.start: current}
    for key, event in changed.items():
        if in_range(key, get.start, get.end):
            found.pop(key, None)
            if event.type is EventType.PUT:
                found[key] = event.kv
    return [found[key] for key in sorted(found)]


def deletes(keys: Sequence[str]) -> Txn:
    """The transaction that removes `keys`."""
    return Txn((), tuple(Delete(key) for key in keys))
