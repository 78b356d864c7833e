"""EtcdStore: the contract over an etcd cluster. Revisions are etcd's own.

reads    linearizable ranges, by default; long ones in pages at one revision
writes   `writes.py`; they return when their event has come back through the watch, and so reached the subscribers
events   `follow.py`, into the same hub that the embedded engines use
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc

from tiphys.api.etcd import rpc_pb2
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.store.errors import (
    CompactedError,
    FutureRevisionError,
    LeaseNotFound,
    StoreClosedError,
    StoreError,
    StoreOpenError,
    StoreTimeoutError,
)
from tiphys.store.etcd.endpoints import ATTEMPT, Endpoints, TLSFiles, UnknownOutcome
from tiphys.store.etcd.faults import CompactedSomewhere, InTheFuture, NoSuchLease
from tiphys.store.etcd.follow import Follower, oldest_revision
from tiphys.store.etcd.layout import move_old_keys
from tiphys.store.etcd.newest import SharedRead
from tiphys.store.etcd.wire import FIRST_KEY, ROOT, Keys
from tiphys.store.etcd.writes import Writes
from tiphys.store.interface import (
    FIRST_REVISION,
    Alarm,
    Compare,
    KeyValue,
    Lease,
    Missed,
    Operation,
    Put,
    RangeResult,
    Status,
    Subscriber,
    TxnResult,
    Watcher,
)
from tiphys.store.snapshot import Contents, write_snapshot
from tiphys.store.verbs import Verbs
from tiphys.store.watch import History, WatchHub

log = get_logger(__name__)

PAGE: Final = 2_000  # keys asked for at once: some megabytes, which hold up neither side for long
SEEN_WITHIN: Final = 10.0  # seconds a committed write has to come back through the watch
OPEN_WITHIN: Final = 20.0  # seconds a cluster has to answer at start, as upstream waits
LONG_WORK: Final = 120.0  # seconds for compaction and defragmentation
KEEP_ALIVE: Final = 3.0  # seconds


class EtcdStore(Verbs):
    """See `Store`. Made by `open`; any number of processes may share a cluster."""

    def __init__(self, endpoints: Endpoints, keys: Keys, revision: int) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._hub = WatchHub(self._read_history, revision)
        self._follower = Follower(endpoints, self._keys)
        self._writes = Writes(endpoints, self._keys, self._seen)
        self._newest = SharedRead(self._read_revision)
        self._tasks = AsyncExitStack()

    @classmethod
    async def open(
        cls,
        urls: Sequence[str],
        *,
        tls: TLSFiles | None = None,
        prefix: str = ROOT,
        layout: Mapping[str, str] | None = None,
        patience: float = OPEN_WITHIN,
    ) -> EtcdStore:
        """Connect to the members at `urls`; waits `patience` seconds for one that answers. `prefix`, `layout`: `Keys`.

        Raises StoreOpenError with one line that says what is wrong, ValueError for a URL that is none.
        """
        try:
            endpoints = Endpoints(urls, tls or TLSFiles())
        except OSError as error:
            raise StoreOpenError(",".join(urls), f"{error.filename}: {error.strerror}") from error
        store = cls(endpoints, Keys(prefix, layout), FIRST_REVISION)
        try:
            await store._read_revision(patience)
            if layout:
                await move_old_keys(endpoints, Keys(prefix), store._keys, layout)
            store._hub.delivered = await store._read_revision(patience)
        except StoreError as error:
            await endpoints.close()
            raise StoreOpenError(",".join(urls), str(error)) from error
        except BaseException:
            await endpoints.close()
            raise
        tasks = await store._tasks.enter_async_context(Supervised())
        tasks.spawn(lambda: store._follower.run(store._hub), name="etcd-watch", restart=True)
        return store

    @property
    def shared(self) -> bool:
        return True

    # Reading

    async def get(self, key: str, *, revision: int = 0) -> KeyValue | None:
        request = rpc_pb2.RangeRequest(key=self._keys.there(key), revision=revision)
        response = await self._range(request)
        return self._keys.key_value(response.kvs[0]) if response.kvs else None

    async def range(
        self, start: str, end: str, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> RangeResult:
        key, last = self._keys.there(start), self._keys.end(end)
        items: list[KeyValue] = []
        first: Any = None
        while True:
            wanted = min(limit - len(items), PAGE) if limit else PAGE
            request = rpc_pb2.RangeRequest(
                key=key, range_end=last, revision=revision, limit=wanted, keys_only=keys_only
            )
            response = await self._range(request)
            first = first or response
            items += self._keys.key_values(response.kvs)
            if not response.more or (limit and len(items) >= limit):
                return RangeResult(tuple(items), first.header.revision, response.more, first.count)
            # The pages that follow are of the same revision.
            revision = revision or first.header.revision
            key = response.kvs[-1].key + b"\0"

    async def _range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        self._check_open()
        try:
            return await self._endpoints.read(lambda member: member.kv.Range(request, timeout=ATTEMPT))
        except CompactedSomewhere:
            raise CompactedError(await self.compacted_revision()) from None
        except InTheFuture:
            raise FutureRevisionError(await self._read_revision()) from None

    async def _read_revision(self, patience: float = 0.0) -> int:
        """etcd's revision now, whichever member answers."""
        request = rpc_pb2.RangeRequest(key=FIRST_KEY, count_only=True)
        more = {"deadline": patience} if patience else {}
        response = await self._endpoints.read(lambda member: member.kv.Range(request, timeout=ATTEMPT), **more)
        return response.header.revision

    async def current_revision(self) -> int:
        self._check_open()
        revision = await self._newest.get()
        await self._seen(revision)
        return revision

    async def compacted_revision(self) -> int:
        self._check_open()
        request = rpc_pb2.RangeRequest(key=FIRST_KEY, revision=FIRST_REVISION, count_only=True)
        try:
            await self._endpoints.read(lambda member: member.kv.Range(request, timeout=ATTEMPT))
        except CompactedSomewhere:
            return await oldest_revision(self._endpoints)
        return 0

    def watch(self, start: str, end: str, *, from_revision: int) -> Watcher:
        return self._hub.watch(start, end, from_revision)

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        return self._hub.subscribe(callback, missed)

    async def _read_history(self, start: str, end: str, from_revision: int, limit: int) -> History:
        return await self._follower.history(self._hub, start, end, from_revision, limit)

    # Writing

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        self._check_open()
        return await self._writes.create(key, value, lease)

    async def update(self, key: str, value: bytes, *, expect: int, lease: int = 0) -> int:
        if expect <= 0:
            raise ValueError("update needs the revision it replaces; create makes new keys")
        self._check_open()
        return await self._writes.update(key, value, expect, lease)

    async def delete(self, key: str, *, expect: int = 0) -> Any:
        self._check_open()
        return await self._writes.delete(key, expect)

    async def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """As `Store.txn`. One whose outcome is not known is not tried again: StoreTimeoutError."""
        self._check_open()
        request = rpc_pb2.TxnRequest(
            compare=map(self._keys.compare, compares),
            success=map(self._keys.operation, success),
            failure=map(self._keys.operation, failure),
        )
        try:
            response = await self._endpoints.write(lambda member: member.kv.Txn(request, timeout=ATTEMPT))
        except UnknownOutcome as error:
            raise StoreTimeoutError(str(error)) from None
        except NoSuchLease:
            leases = [operation.lease for operation in success if isinstance(operation, Put) and operation.lease]
            raise LeaseNotFound(leases[0] if leases else 0) from None
        await self._seen(response.header.revision)
        found = tuple(map(self._keys.response, response.responses))
        return TxnResult(response.succeeded, response.header.revision, found)

    async def _seen(self, revision: int) -> None:
        """Wait until subscribers know everything up to `revision`."""
        if self._hub.delivered >= revision:
            return
        if not await self._hub.reached(revision, SEEN_WITHIN):
            self._check_open()
            self._follower.reopen()  # the stream is open, but tells nothing
            raise StoreTimeoutError(f"revision {revision} has not come through the watch yet")

    async def compact(self, revision: int) -> None:
        self._check_open()
        request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
        try:
            await self._endpoints.read(lambda member: member.kv.Compact(request, timeout=LONG_WORK))
        except CompactedSomewhere:
            raise CompactedError(await self.compacted_revision()) from None
        except InTheFuture:
            raise FutureRevisionError(await self._read_revision()) from None

    # Leases: etcd keeps their time.

    async def grant_lease(self, ttl: int) -> Lease:
        if ttl <= 0:
            raise ValueError("a lease lasts at least one second")
        self._check_open()
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
        # Made twice, one of the two expires unused.
        granted = await self._endpoints.read(lambda member: member.lease.LeaseGrant(request, timeout=ATTEMPT))
        return Lease(granted.ID, granted.TTL, granted.TTL)

    async def keep_alive(self, lease: int) -> Lease:
        self._check_open()

        async def renew(member: Any) -> Any:
            call = member.lease.LeaseKeepAlive(timeout=KEEP_ALIVE)
            try:
                await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
                await call.done_writing()
                return await call.read()
            finally:
                call.cancel()

        renewed = await self._endpoints.read(renew)
        if renewed is grpc.aio.EOF or renewed.TTL <= 0:
            raise LeaseNotFound(lease)
        return Lease(lease, renewed.TTL, renewed.TTL)

    async def revoke_lease(self, lease: int) -> None:
        self._check_open()
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            revoked = await self._endpoints.read(lambda member: member.lease.LeaseRevoke(request, timeout=ATTEMPT))
        except NoSuchLease:
            raise LeaseNotFound(lease) from None
        await self._seen(revoked.header.revision)

    # Keeping

    async def snapshot(self, path: Path) -> None:
        self._check_open()
        found = await self.range("", "\U0010ffff")
        ttls: dict[int, int] = {}
        for lease in {kv.lease for kv in found.items if kv.lease}:
            request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease)
            told = await self._endpoints.read(_time_to_live(request))
            if told.TTL > 0:
                ttls[lease] = told.grantedTTL
        contents = Contents(found.revision, found.revision, list(found.items), ttls)
        await asyncio.to_thread(write_snapshot, path, contents)

    async def status(self) -> Status:
        self._check_open()
        told = await self._endpoints.read(
            lambda member: member.maintenance.Status(rpc_pb2.StatusRequest(), timeout=ATTEMPT)
        )
        leases = await self._endpoints.read(
            lambda member: member.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=ATTEMPT)
        )
        compacted = await self.compacted_revision()
        return Status(
            told.header.revision, compacted, told.dbSize, told.dbSizeInUse, told.dbSizeQuota, len(leases.leases)
        )

    async def defragment(self) -> None:
        """Each member in turn, as it answers nothing meanwhile."""
        self._check_open()
        for member in self._endpoints.members:
            try:
                await member.maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=LONG_WORK)
            except grpc.aio.AioRpcError as error:
                log.warning("etcd member %s was not defragmented: %s", member.url, error.details())

    async def alarms(self) -> Sequence[Alarm]:
        """See `Store.alarms`. With corrupt data a member refuses everything."""
        told = await self._alarm(rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET))
        return [Alarm(one.memberID, rpc_pb2.AlarmType.Name(one.alarm)) for one in told.alarms]

    async def disarm(self) -> None:
        """See `Store.disarm`."""
        for alarm in await self.alarms():
            action = rpc_pb2.AlarmRequest.DEACTIVATE
            await self._alarm(rpc_pb2.AlarmRequest(action=action, memberID=alarm.member, alarm=alarm.kind))

    async def _alarm(self, request: rpc_pb2.AlarmRequest) -> rpc_pb2.AlarmResponse:
        return await self._endpoints.read(lambda member: member.maintenance.Alarm(request, timeout=ATTEMPT))

    async def close(self) -> None:
        """Let go of the cluster. Closing twice is harmless."""
        if self._hub.closed:
            return
        self._hub.close()
        await self._tasks.aclose()
        await self._endpoints.close()

    def _check_open(self) -> None:
        if self._hub.closed:
            raise StoreClosedError("the store is closed")


def _time_to_live(request: rpc_pb2.LeaseTimeToLiveRequest) -> Callable[[Any], Any]:
    return lambda member: member.lease.LeaseTimeToLive(request, timeout=ATTEMPT)
