"""Between the store's values and etcd's messages.

Keys are text here and bytes there; UTF-8 keeps their order. `Keys` puts everything below /registry/ where
`--etcd-prefix` says, and what a layout names where others have it; other keys (the compaction's) stay where they are.

    here    /registry/core/nodes/a    /registry/example.com/widgets/d/a    compact_rev_key
    there   /prefix/minions/a         /prefix/example.com/widgets/d/a      compact_rev_key
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from tiphys.api.etcd import rpc_pb2
from tiphys.store.interface import (
    END_OF_KEYS,
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
)

ROOT: Final = "/registry"
FIRST_KEY: Final = b"\0"  # etcd has no empty key
ALL_KEYS: Final = b"\0"  # as the end of a range

TARGETS: Final = {
    CompareTarget.VERSION: ("version", rpc_pb2.Compare.VERSION),
    CompareTarget.CREATE_REVISION: ("create_revision", rpc_pb2.Compare.CREATE),
    CompareTarget.MOD_REVISION: ("mod_revision", rpc_pb2.Compare.MOD),
    CompareTarget.VALUE: ("value", rpc_pb2.Compare.VALUE),
    CompareTarget.LEASE: ("lease", rpc_pb2.Compare.LEASE),
}
OPERATORS: Final = {
    CompareOperator.EQUAL: rpc_pb2.Compare.EQUAL,
    CompareOperator.NOT_EQUAL: rpc_pb2.Compare.NOT_EQUAL,
    CompareOperator.GREATER: rpc_pb2.Compare.GREATER,
    CompareOperator.LESS: rpc_pb2.Compare.LESS,
}


class Keys:
    """Names of keys on both sides."""

    def __init__(self, prefix: str = ROOT, layout: Mapping[str, str] | None = None) -> None:
        """`prefix` stands in etcd for /registry.

        `layout` leads from beginnings here, two words below /registry/, to beginnings there, one or two words below it,
        both with the slash at the end. What begins as one of these is ordered in both as it is here.
        """
        self._prefix = "/" + prefix.strip("/")
        self._same = self._prefix == ROOT
        self._there = dict(layout or {})
        self._here = {there: here for here, there in self._there.items()}

    def there(self, key: str) -> bytes:
        """A key as etcd has it."""
        if self._there and key.startswith(ROOT):
            end = key.find("/", key.find("/", len(ROOT) + 1) + 1) + 1
            moved = self._there.get(key[:end])
            if moved is not None:
                key = moved + key[end:]
        if not self._same and (key == ROOT or key.startswith(ROOT + "/")):
            key = self._prefix + key[len(ROOT) :]
        return key.encode() or FIRST_KEY

    def end(self, end: str) -> bytes:
        """The end of a range; "" is a single key in both."""
        if not end:
            return b""
        if end == END_OF_KEYS:
            return ALL_KEYS
        if not self._same and end == ROOT + "0":  # what follows all of /registry/
            return (self._prefix + "0").encode()
        if end.endswith("0") and f"{end[:-1]}/" in self._there:  # what follows all of a beginning
            return self.there(f"{end[:-1]}/")[:-1] + b"0"
        return self.there(end)

    def here(self, key: bytes) -> str:
        """A key of etcd as the store has it. Foreign keys that are no text survive the way there and back."""
        text = key.decode(errors="surrogateescape")
        if not self._same and text.startswith(self._prefix + "/"):
            text = ROOT + text[len(self._prefix) :]
        if self._here and text.startswith(ROOT):
            first = text.find("/", len(ROOT) + 1) + 1
            for end in (first, text.find("/", first) + 1):
                known = self._here.get(text[:end])
                if known is not None:
                    return known + text[end:]
        return text

    # --- from etcd --------------------------------------------------------------------------------
    def key_value(self, kv: rpc_pb2.KeyValue) -> KeyValue:
        return KeyValue(self.here(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)

    def key_values(self, kvs: Iterable[rpc_pb2.KeyValue]) -> tuple[KeyValue, ...]:
        return tuple(map(self.key_value, kvs))

    def event(self, event: rpc_pb2.Event) -> Event:
        prev = self.key_value(event.prev_kv) if event.HasField("prev_kv") else None
        kind = EventType.PUT if event.type == rpc_pb2.Event.PUT else EventType.DELETE
        return Event(kind, self.key_value(event.kv), prev)

    def revisions(self, events: Sequence[rpc_pb2.Event]) -> Iterator[list[Event]]:
        """Events revision by revision; a response of etcd never ends inside one."""
        group: list[Event] = []
        for message in events:
            event = self.event(message)
            if group and group[0].kv.mod_revision != event.kv.mod_revision:
                yield group
                group = []
            group.append(event)
        if group:
            yield group

    def response(self, response: rpc_pb2.ResponseOp) -> tuple[KeyValue, ...]:
        """What one operation of a transaction found or replaced."""
        if response.HasField("response_put"):
            put = response.response_put
            return (self.key_value(put.prev_kv),) if put.HasField("prev_kv") else ()
        if response.HasField("response_delete_range"):
            return self.key_values(response.response_delete_range.prev_kvs)
        return self.key_values(response.response_range.kvs)

    # --- to etcd ----------------------------------------------------------------------------------
    def compare(self, compare: Compare) -> rpc_pb2.Compare:
        field, target = TARGETS[compare.target]
        message = rpc_pb2.Compare(key=self.there(compare.key), target=target, result=OPERATORS[compare.operator])
        setattr(message, field, compare.operand)
        return message

    def operation(self, operation: Operation, *, previous: bool = True) -> rpc_pb2.RequestOp:
        """`previous`: the answer shall say what was replaced."""
        if isinstance(operation, Put):
            put = rpc_pb2.PutRequest(
                key=self.there(operation.key), value=operation.value, lease=operation.lease, prev_kv=previous
            )
            return rpc_pb2.RequestOp(request_put=put)
        key, end = self.there(operation.start), self.end(operation.end)
        if isinstance(operation, Delete):
            delete = rpc_pb2.DeleteRangeRequest(key=key, range_end=end, prev_kv=previous)
            return rpc_pb2.RequestOp(request_delete_range=delete)
        assert isinstance(operation, Get)
        return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key, range_end=end))
