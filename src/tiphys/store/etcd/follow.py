"""Following etcd: one watch of everything for the process, and short ones that read history.

    etcd      ──2──3──4──5──▶  one stream of every key, from the revision after the last one delivered
    hub                        subscribers (the watch cache), then watchers, revision by revision

The stream covers every key of etcd, not only ours: then each revision arrives with an event, and "everything up to
revision n was seen" needs no progress notifications, which etcd before 3.4.31 and 3.5.13 sent too early
(https://github.com/etcd-io/etcd/issues/15220). Who shares the cluster with others pays for their events.

A stream that breaks is opened again where it stood, at another member. When what comes next was compacted
meanwhile, the hub is told that events were missed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from tiphys.api.etcd import rpc_pb2
from tiphys.base.log import get_logger
from tiphys.store.errors import CompactedError, StoreTimeoutError
from tiphys.store.etcd.endpoints import Endpoints, Member
from tiphys.store.etcd.wire import ALL_KEYS, FIRST_KEY, Keys
from tiphys.store.interface import Event, in_range
from tiphys.store.watch import History, WatchHub

log = get_logger(__name__)

# A member that has lost the others ends the stream instead of falling silent.
NEED_LEADER: Final = (("hasleader", "true"),)
PAUSE: Final = 0.1  # seconds before a broken stream is opened again
SILENCE: Final = 5.0  # seconds without anything in which a reader of history gives up
CREATED: Final = 4.0  # seconds a member has to open a stream


async def open_watch(member: Member, from_revision: int, *, key: bytes = FIRST_KEY, end: bytes = ALL_KEYS) -> Any:
    """A stream of the changes from `from_revision` on. Raises AioRpcError, TimeoutError."""
    call: Any = member.watch.Watch(metadata=NEED_LEADER)  # type: ignore[call-arg]  # requests are written, not given
    create = rpc_pb2.WatchCreateRequest(key=key, range_end=end, start_revision=from_revision, prev_kv=True)
    try:
        async with asyncio.timeout(CREATED):
            await call.write(rpc_pb2.WatchRequest(create_request=create))
    except BaseException:
        call.cancel()
        raise
    return call


async def oldest_revision(endpoints: Endpoints) -> int:
    """The revision of the last compaction, which etcd tells only to a watch that asks for what is gone."""
    call = await open_watch(endpoints.current, 1, key=FIRST_KEY, end=b"")
    try:
        async with asyncio.timeout(SILENCE):
            while (response := await call.read()) is not grpc.aio.EOF:
                if response.canceled:
                    return int(response.compact_revision)
    except TimeoutError:
        pass
    finally:
        call.cancel()
    raise StoreTimeoutError("etcd does not say what it has compacted")


class Follower:
    """Feeds a hub from one stream of everything. `run` until cancelled."""

    def __init__(self, endpoints: Endpoints, keys: Keys) -> None:
        self._endpoints = endpoints
        self._keys = keys
        self._call: Any = None
        endpoints.moved = self.reopen

    def reopen(self) -> None:
        """End the stream; it is opened again at the current member."""
        if self._call is not None:
            self._call.cancel()

    async def run(self, hub: WatchHub) -> None:
        while True:
            member = self._endpoints.current
            try:
                await self._follow(hub, member)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                why = error.details() if isinstance(error, grpc.aio.AioRpcError) else "no answer"
                log.info("the watch of etcd member %s ended: %s", member.url, why)
                self._endpoints.leave(member, str(why))
            except asyncio.CancelledError:
                # Cancelled by `reopen` or with this task.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            await asyncio.sleep(PAUSE)

    async def _follow(self, hub: WatchHub, member: Member) -> None:
        self._call = call = await open_watch(member, hub.delivered + 1)
        try:
            async with asyncio.timeout(CREATED):
                response = await call.read()
            while response is not grpc.aio.EOF:
                if response.canceled:
                    await self._missed(hub, response)
                    return
                for revision in self._keys.revisions(response.events):
                    if revision[0].kv.mod_revision > hub.delivered:
                        hub.publish(revision)
                response = await call.read()
        finally:
            self._call = None
            call.cancel()

    async def _missed(self, hub: WatchHub, response: Any) -> None:
        if not response.compact_revision:
            log.warning("etcd ended the watch: %s", response.cancel_reason)
            return
        request = rpc_pb2.RangeRequest(key=FIRST_KEY, count_only=True)
        newest = await self._endpoints.read(lambda member: member.kv.Range(request, timeout=CREATED))
        log.warning("revisions %d to %d of etcd were missed", hub.delivered + 1, newest.header.revision)
        hub.missed(int(newest.header.revision))

    async def history(self, hub: WatchHub, start: str, end: str, from_revision: int, limit: int) -> History:
        """See `watch.ReadHistory`: until it has caught up with the hub, or has `limit` events."""
        call = await self._open_history(from_revision)
        events: list[Event] = []
        position = from_revision - 1
        try:
            while position < hub.delivered and len(events) < limit:
                async with asyncio.timeout(SILENCE):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    break
                if response.canceled and response.compact_revision:
                    raise CompactedError(int(response.compact_revision))
                if response.canceled:
                    break
                for revision in self._keys.revisions(response.events):
                    position = revision[0].kv.mod_revision
                    events += [event for event in revision if in_range(event.kv.key, start, end)]
        except TimeoutError:
            # Only a deletion right at the compacted revision falls silent so: its event went with the compaction.
            if not events:
                raise CompactedError(hub.delivered) from None
        except grpc.aio.AioRpcError as error:
            log.info("history of etcd broke off: %s", error.details())
        finally:
            call.cancel()
        if position < from_revision:
            raise StoreTimeoutError("history cannot be read now")
        return History(events, position)  # what is missing is asked for again from here

    async def _open_history(self, from_revision: int) -> Any:
        member = self._endpoints.current
        try:
            return await open_watch(member, from_revision)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            self._endpoints.leave(member, str(error))
            raise StoreTimeoutError("history cannot be read now") from error
