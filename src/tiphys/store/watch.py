"""Watchers and subscribers of one process, over any engine that can read its history.

A watcher is either *synced*, and fed as revisions are committed, or *behind*, and reads history:

    behind --- history read through the newest revision ---> synced
    behind <-- consumer slower than MAX_QUEUED events ------- synced

Both steps happen between two turns of the event loop, so no revision falls between history and live. What
a slow consumer has not taken is dropped from memory and read from history later; it never holds back a writer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple, Self

from tiphys.base.log import get_logger
from tiphys.store.errors import StoreClosedError
from tiphys.store.interface import Event, Missed, Subscriber, in_range

log = get_logger(__name__)

MAX_QUEUED: Final = 10_000  # events of one watcher held in memory
HISTORY_CHUNK: Final = 1_000  # events read at once


class History(NamedTuple):
    """A piece of history: all events of the range up to the revision `through`."""

    events: list[Event]
    through: int


class Subscription(NamedTuple):
    callback: Subscriber
    missed: Missed | None


# (start, end, from_revision, limit) -> History; raises CompactedError.
ReadHistory = Callable[[str, str, int, int], Awaitable[History]]


class WatchHub:
    """Hands each committed revision to all subscribers, then to all synced watchers."""

    def __init__(self, read_history: ReadHistory, revision: int) -> None:
        self.read_history = read_history
        self.delivered = revision  # the newest revision handed to subscribers
        self.closed = False
        self.synced: set[HubWatcher] = set()
        self._watchers: set[HubWatcher] = set()
        self._subscribers: list[Subscription] = []
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()

    def subscribe(self, callback: Subscriber, missed: Missed | None = None) -> Callable[[], None]:
        subscription = Subscription(callback, missed)
        self._subscribers.append(subscription)

        def unsubscribe() -> None:
            if subscription in self._subscribers:
                self._subscribers.remove(subscription)

        return unsubscribe

    def watch(self, start: str, end: str, from_revision: int) -> HubWatcher:
        watcher = HubWatcher(self, start, end, from_revision or self.delivered + 1)
        self._watchers.add(watcher)
        return watcher

    def publish(self, events: Sequence[Event]) -> None:
        """Deliver one revision. Called in the event loop, in the order of revisions."""
        self.delivered = events[0].kv.mod_revision
        for subscriber, _ in list(self._subscribers):
            try:
                subscriber(events)
            except Exception:  # one subscriber's bug must not leave a durable write unanswered
                log.exception("a subscriber failed at revision %d", self.delivered)
        for watcher in list(self.synced):
            watcher.offer(events)
        if self._waiters:
            self._wake_waiters()

    def missed(self, revision: int) -> None:
        """Everything up to `revision` happened, and the events are lost (a remote store compacted them).

        Subscribers that asked are told; watchers find the compaction when they read history.
        """
        self.delivered = revision
        for _, missed in list(self._subscribers):
            if missed is not None:
                missed(revision)
        for watcher in list(self.synced):
            watcher.fall_behind()
        self._wake_waiters()

    async def reached(self, revision: int, timeout: float) -> bool:
        """Wait until everything up to `revision` is delivered; False after `timeout` seconds or when the hub closes."""
        if self.delivered < revision and not self.closed:
            waiter = asyncio.get_running_loop().create_future()
            heappush(self._waiters, (revision, next(self._order), waiter))
            with suppress(TimeoutError):
                await asyncio.wait_for(waiter, timeout)
        return self.delivered >= revision

    def _wake_waiters(self) -> None:
        while self._waiters and (self._waiters[0][0] <= self.delivered or self.closed):
            waiter = heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)

    def forget(self, watcher: HubWatcher) -> None:
        self._watchers.discard(watcher)
        self.synced.discard(watcher)

    def close(self) -> None:
        """End every watcher with StoreClosedError."""
        self.closed = True
        for watcher in list(self._watchers):
            watcher.wake()
        self._wake_waiters()


class HubWatcher:
    """See `Watcher`. One consumer at a time."""

    def __init__(self, hub: WatchHub, start: str, end: str, from_revision: int) -> None:
        self._hub = hub
        self._start = start
        self._end = end
        self._position = from_revision - 1  # everything up to here was handed out
        self._queue: deque[Event] = deque()
        self._wakeup: asyncio.Future[None] | None = None
        self._closed = False
        if self._position >= hub.delivered:
            hub.synced.add(self)

    @property
    def revision(self) -> int:
        if self in self._hub.synced and not self._queue:
            return max(self._position, self._hub.delivered)
        return self._position

    def offer(self, events: Sequence[Event]) -> None:
        """Queue what of one revision lies in the range; fall behind when the consumer is too slow."""
        if events[0].kv.mod_revision <= self._position:
            return
        start, end, before = self._start, self._end, len(self._queue)
        self._queue.extend(event for event in events if in_range(event.kv.key, start, end))
        if len(self._queue) > MAX_QUEUED:
            self.fall_behind()
        elif len(self._queue) != before:
            self.wake()

    def fall_behind(self) -> None:
        """Go on from history."""
        self._queue.clear()
        self._hub.synced.discard(self)
        self.wake()

    def wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def close(self) -> None:
        self._closed = True
        self._queue.clear()
        self._hub.forget(self)
        self.wake()

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        return self

    async def __anext__(self) -> list[Event]:
        while not self._closed:
            if self._hub.closed:
                raise StoreClosedError("the store is closed")
            if self._queue:
                batch = list(self._queue)
                self._queue.clear()
                self._position = batch[-1].kv.mod_revision
                return batch
            if self not in self._hub.synced:
                batch = await self._catch_up()
                if batch and not self._closed:
                    return batch
                continue
            self._position = max(self._position, self._hub.delivered)
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                await self._wakeup
            finally:
                self._wakeup = None
        raise StopAsyncIteration

    async def _catch_up(self) -> list[Event]:
        events, through = await self._hub.read_history(self._start, self._end, self._position + 1, HISTORY_CHUNK)
        self._position = max(self._position, through)
        if self._position >= self._hub.delivered and not self._closed:
            self._hub.synced.add(self)
        return events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
