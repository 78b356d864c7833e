"""Single-key writes that are never made twice, whatever becomes of the answer.

A write whose answer was lost may have been applied, or may yet be. create and update say which revision they
replace, so at most one of any number of tries can win; they are tried again until one is judged:

    judged           no try lost before    a try was lost before
    applied          its revision          its revision
    key is as sent   refused               the lost try won: that key's revision
    key is other     refused               ours and then somebody else's, or somebody else's: StoreTimeoutError

"As sent" are the same bytes under the same lease. Another writer of the same bytes over the same revision cannot be
told from us, and need not be: what was asked for is what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tiphys.api.etcd import rpc_pb2
from tiphys.store.errors import CompareFailed, KeyExists, KeyNotFound, LeaseNotFound, StoreTimeoutError
from tiphys.store.etcd.endpoints import ATTEMPT, DEADLINE, Endpoints, UnknownOutcome
from tiphys.store.etcd.faults import NoSuchLease
from tiphys.store.etcd.wire import Keys
from tiphys.store.interface import Compare, CompareTarget, Delete, Deleted, Get, KeyValue, Operation, Put

PAUSE: Final = 0.1  # seconds between two tries


class Writes:
    """create, update and delete over `endpoints`; `seen` waits until a revision has reached the subscribers."""

    def __init__(self, endpoints: Endpoints, keys: Keys, seen: Callable[[int], Awaitable[None]]) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._seen = seen

    async def create(self, key: str, value: bytes, lease: int) -> int:
        """See `Store.create`."""
        revision, current = await self._put(key, value, 0, lease)
        if revision:
            return revision
        assert current is not None
        raise KeyExists(current)

    async def update(self, key: str, value: bytes, expect: int, lease: int) -> int:
        """See `Store.update`."""
        revision, current = await self._put(key, value, expect, lease)
        if revision:
            return revision
        raise CompareFailed(key, expect, current)

    async def _put(self, key: str, value: bytes, expect: int, lease: int) -> tuple[int, KeyValue | None]:
        """(revision of the write, None), or (0, what the key holds)."""
        request = self._request(key, expect, Put(key, value, lease), previous=False)
        try:
            response, doubtful = await self._judged(request)
        except NoSuchLease:
            raise LeaseNotFound(lease) from None
        if response.succeeded:
            await self._seen(response.header.revision)
            return response.header.revision, None
        current = self._found(response)
        if doubtful:
            if current is None or current.value != value or current.lease != lease:
                raise StoreTimeoutError("whether the write was applied cannot be told")
            await self._seen(current.mod_revision)
            return current.mod_revision, None
        return 0, current

    async def delete(self, key: str, expect: int) -> Deleted:
        """See `Store.delete`."""
        request = self._request(key, expect, Delete(key), previous=True)
        response, doubtful = await self._judged(request)
        if response.succeeded:
            removed = self._keys.response(response.responses[0])
            if removed:
                await self._seen(response.header.revision)
                return Deleted(response.header.revision, removed[0])
        current = self._found(response) if not response.succeeded else None
        # A key that still lives its old life was not deleted by a lost try, and never will be: its revision moved on.
        if doubtful and (current is None or current.create_revision > expect):
            raise StoreTimeoutError("whether the key was deleted by this call cannot be told")
        if expect:
            raise CompareFailed(key, expect, current)
        raise KeyNotFound(key)

    def _request(self, key: str, expect: int, operation: Operation, *, previous: bool) -> rpc_pb2.TxnRequest:
        unconditional = isinstance(operation, Delete) and not expect
        compares = [] if unconditional else [self._keys.compare(Compare(key, CompareTarget.MOD_REVISION, expect))]
        return rpc_pb2.TxnRequest(
            compare=compares,
            success=[self._keys.operation(operation, previous=previous)],
            failure=[self._keys.operation(Get(key))],
        )

    def _found(self, response: rpc_pb2.TxnResponse) -> KeyValue | None:
        return next(iter(self._keys.response(response.responses[0])), None)

    async def _judged(self, request: rpc_pb2.TxnRequest) -> tuple[rpc_pb2.TxnResponse, bool]:
        """What etcd decided, and whether a try before was lost. Raises StoreTimeoutError."""
        loop = asyncio.get_running_loop()
        end = loop.time() + DEADLINE
        doubtful = False
        while True:
            try:
                left = max(end - loop.time(), PAUSE)
                response = await self._endpoints.write(
                    lambda member: member.kv.Txn(request, timeout=ATTEMPT), deadline=left
                )
                return response, doubtful
            except UnknownOutcome as error:
                doubtful = True
                if not request.compare or loop.time() > end:
                    raise StoreTimeoutError(str(error)) from None
            await asyncio.sleep(PAUSE)
