"""Keys that were written before a layout was agreed on are moved to where it has them, once, at start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tiphys.api.etcd import rpc_pb2
from tiphys.base.log import get_logger
from tiphys.store.etcd.endpoints import ATTEMPT, Endpoints
from tiphys.store.etcd.wire import Keys
from tiphys.store.interface import prefix_end

log = get_logger(__name__)

AT_ONCE: Final = 100  # operations in one transaction; etcd takes 128


async def move_old_keys(endpoints: Endpoints, old: Keys, new: Keys, layout: Mapping[str, str]) -> None:
    """Move every key that begins as `layout` says keys begin here. Several servers may do it at once."""
    for beginnings in _parts(sorted(layout)):
        for beginning in await _used(endpoints, old, beginnings):
            await _move(endpoints, old, new, beginning)


def _parts(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]


async def _used(endpoints: Endpoints, old: Keys, beginnings: list[str]) -> list[str]:
    """Which of them there are keys of: one question for all."""
    ranges = [
        rpc_pb2.RequestOp(
            request_range=rpc_pb2.RangeRequest(
                key=old.there(one), range_end=old.end(prefix_end(one)), limit=1, keys_only=True
            )
        )
        for one in beginnings
    ]
    request = rpc_pb2.TxnRequest(success=ranges)
    answer = await endpoints.read(lambda member: member.kv.Txn(request, timeout=ATTEMPT))
    return [one for one, found in zip(beginnings, answer.responses, strict=True) if found.response_range.kvs]


async def _move(endpoints: Endpoints, old: Keys, new: Keys, beginning: str) -> None:
    request = rpc_pb2.RangeRequest(key=old.there(beginning), range_end=old.end(prefix_end(beginning)))
    found = (await endpoints.read(lambda member: member.kv.Range(request, timeout=ATTEMPT))).kvs
    log.info("moving %d keys of etcd that begin with %s", len(found), beginning)
    for kv in found:
        txn = _moving(kv, new.there(old.here(kv.key)))
        # Made again after a lost answer, its comparison fails, and nothing is done twice.
        await endpoints.read(lambda member, txn=txn: member.kv.Txn(txn, timeout=ATTEMPT))  # type: ignore[misc]


def _moving(kv: Any, place: bytes) -> rpc_pb2.TxnRequest:
    unchanged = rpc_pb2.Compare(
        key=kv.key, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=kv.mod_revision
    )
    free = rpc_pb2.Compare(key=place, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=0)
    put = rpc_pb2.PutRequest(key=place, value=kv.value, lease=kv.lease)
    delete = rpc_pb2.DeleteRangeRequest(key=kv.key)
    return rpc_pb2.TxnRequest(
        compare=[unchanged, free],
        success=[rpc_pb2.RequestOp(request_put=put), rpc_pb2.RequestOp(request_delete_range=delete)],
    )
