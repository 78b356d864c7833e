"""create, update and delete in terms of `txn`, the same over every engine."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from tiphys.store.errors import CompareFailed, KeyExists, KeyNotFound
from tiphys.store.interface import Compare, CompareTarget, Delete, Deleted, Get, Operation, Put, TxnResult


class Verbs(abc.ABC):
    """The single-key writes of `Store`; each is one transaction."""

    @abc.abstractmethod
    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult: ...

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        absent = Compare(key, CompareTarget.MOD_REVISION, 0)
        result = await self.txn((absent,), (Put(key, value, lease),), (Get(key),))
        if not result.succeeded:
            raise KeyExists(result.responses[0][0])
        return result.revision

    async def update(self, key: str, value: bytes, *, expect: int, lease: int = 0) -> int:
        if expect <= 0:
            raise ValueError("update needs the revision it replaces; create makes new keys")
        unchanged = Compare(key, CompareTarget.MOD_REVISION, expect)
        result = await self.txn((unchanged,), (Put(key, value, lease),), (Get(key),))
        if not result.succeeded:
            raise CompareFailed(key, expect, next(iter(result.responses[0]), None))
        return result.revision

    async def delete(self, key: str, *, expect: int = 0) -> Deleted:
        compares = (Compare(key, CompareTarget.MOD_REVISION, expect),) if expect else ()
        result = await self.txn(compares, (Delete(key),), (Get(key),))
        if not result.succeeded:
            raise CompareFailed(key, expect, next(iter(result.responses[0]), None))
        if not result.responses[0]:
            raise KeyNotFound(key)
        return Deleted(result.revision, result.responses[0][0])
