"""Watchers of one kind, and how changes reach them.

    store callback ──▶ pending ──call_soon──▶ _deliveries (a generator) ──▶ watcher.deliver(bytes) ──▶ transport.write
                        [events]               │ one judgement and one encoding a group: (filter, encoder)
                                               │ groups that ask for one field value are found by that value
                                               └ after SLICE deliveries the loop gets a turn

A watcher whose client does not keep up queues references to the shared bytes, and is ended when its queue passes the
limit: its client watches again from the last revision it saw. Nothing here awaits; order is the order of revisions.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from tiphys.apiserver.watchcache.event import CacheEvent
from tiphys.apiserver.watchcache.filter import Filter
from tiphys.apiserver.watchcache.kind import KindCache

SLICE: Final = 250  # deliveries before the event loop gets a turn
# Changes that come so fast are collected for a moment: then several go into one write for each watcher, which costs
# both sides hardly more than a single one.
BUSY: Final = 0.004  # seconds in which two deliveries began
PAUSE: Final = 0.002
MAX_QUEUED_BYTES: Final = 32 * 1024 * 1024
# Field selectors by which watchers are found instead of being asked: kubelets watch their own pods.
INDEXED_FIELDS: Final = ("spec.nodeName", "metadata.name", "involvedObject.uid")


class Sink(Protocol):
    """Where a watcher's bytes go (`http.response.Stream`)."""

    @property
    def writable(self) -> bool: ...

    def write_framed(self, data: bytes) -> None: ...


class Encoder(Protocol):
    """Makes the wire form of events. Equal keys mean equal bytes."""

    @property
    def key(self) -> object:
        """Identifies the form: watchers with equal keys share bytes."""

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """The framed bytes of `event` seen as `kind` (ADDED, MODIFIED, DELETED)."""


class Tally(Protocol):
    """Counts what watchers are sent."""

    def sent(self, data: bytes, times: int = 1) -> None:
        """The framed bytes of an event went to so many."""


class Watcher:
    """One client's watch. `lost` is set when it was ended from this side."""

    __slots__ = ("_held", "_queue", "_queued", "_sink", "ended", "start_revision")

    def __init__(self, sink: Sink, start_revision: int) -> None:
        """Only events after `start_revision` are delivered. It starts held: events queue until `release`."""
        self._sink = sink
        self._held = True
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self.start_revision = start_revision
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def deliver(self, data: bytes) -> None:
        """Send or queue framed bytes."""
        if self._held or self._queue or not self._sink.writable:
            self._queue.append(data)
            self._queued += len(data)
            if self._queued > MAX_QUEUED_BYTES:
                self.end()
            return
        self._sink.write_framed(data)

    def release(self) -> None:
        """The initial part is sent: let queued events follow."""
        self._held = False
        self.flush()

    def flush(self) -> None:
        """Send what is queued while the client keeps up; called when it can take more."""
        if self._held:
            return
        queue = self._queue
        while queue and self._sink.writable:
            data = queue.popleft()
            self._queued -= len(data)
            self._sink.write_framed(data)

    def end(self) -> None:
        """End the watch from this side."""
        self._queue.clear()
        self._queued = 0
        if not self.ended.done():
            self.ended.set_result(None)


class WatchGroup:
    """The watchers that see the same bytes."""

    __slots__ = ("encoder", "filter", "index", "tally", "watchers")

    def __init__(self, wanted: Filter, encoder: Encoder, tally: Tally | None = None) -> None:
        self.filter = wanted
        self.encoder = encoder
        self.tally = tally
        self.watchers: set[Watcher] = set()
        self.index = _index_of(wanted)

    def frames(self, events: Sequence[CacheEvent], cache: KindCache) -> list[tuple[int, bytes]]:
        """(revision, framed bytes) of the events that pass the filter."""
        frames: list[tuple[int, bytes]] = []
        for event in events:
            kind = self.filter.judge(event, cache.fields_of)
            if kind is None:
                continue
            key = (self.encoder.key, kind)
            made = event.frames
            if made is None:
                made = event.frames = {}
            data = made.get(key)
            if data is None:
                data = made[key] = self.encoder.frame(event, kind)
            frames.append((event.revision, data))
        return frames


def _index_of(wanted: Filter) -> tuple[str, str] | None:
    """The (field, value) every matching object must have, when the filter names one of the indexed fields."""
    if wanted.fields is None:
        return None
    for field in INDEXED_FIELDS:
        value = wanted.fields.exact(field)
        if value is not None:
            return field, value
    return None


class WatcherSet:
    """All watchers of one kind."""

    def __init__(self, cache: KindCache) -> None:
        self._cache = cache
        self._groups: dict[tuple[Filter, object], WatchGroup] = {}
        self._scan: set[WatchGroup] = set()
        self._indexed: dict[tuple[str, str], set[WatchGroup]] = {}
        self._indexed_fields: dict[str, int] = {}
        self.count = 0  # watchers of all groups
        self.dispatched = 0  # changes looked at for them
        self._pending: list[CacheEvent] = []
        self._deliveries: Iterator[None] | None = None
        self._begun = (-BUSY, -BUSY)  # when the last deliveries began, by the loop's clock
        # Revision up to which every event has been handed to every watcher.
        self.delivered_revision = cache.last_change

    def __len__(self) -> int:
        return self.count

    def add(self, wanted: Filter, encoder: Encoder, watcher: Watcher, tally: Tally | None = None) -> WatchGroup:
        """Start delivering to `watcher`, counted by `tally`; returns its group, to be given to `remove`."""
        key = (wanted, encoder.key)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = WatchGroup(wanted, encoder, tally)
            if group.index is None:
                self._scan.add(group)
            else:
                self._indexed.setdefault(group.index, set()).add(group)
                field = group.index[0]
                self._indexed_fields[field] = self._indexed_fields.get(field, 0) + 1
        group.watchers.add(watcher)
        self.count += 1
        return group

    def remove(self, group: WatchGroup, watcher: Watcher) -> None:
        """Stop delivering."""
        if watcher in group.watchers:
            group.watchers.discard(watcher)
            self.count -= 1
        if group.watchers:
            return
        key = (group.filter, group.encoder.key)
        if self._groups.get(key) is not group:
            return
        del self._groups[key]
        if group.index is None:
            self._scan.discard(group)
            return
        groups = self._indexed[group.index]
        groups.discard(group)
        if not groups:
            del self._indexed[group.index]
        field = group.index[0]
        self._indexed_fields[field] -= 1
        if not self._indexed_fields[field]:
            del self._indexed_fields[field]

    def end_all(self) -> None:
        """End every watch (the server stops, or the kind is gone)."""
        for group in self._groups.values():
            for watcher in group.watchers:
                watcher.end()

    def publish(self, event: CacheEvent) -> None:
        """Take in one change; it is delivered in the loop's next turns."""
        if not self._groups:
            self.delivered_revision = event.revision
            return
        self._pending.append(event)
        if self._deliveries is not None:
            return
        self._deliveries = self._deliver()
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._begun[0] < BUSY:
            self._begun = self._begun[1], now + PAUSE
            loop.call_later(PAUSE, self._pump)
        else:
            self._begun = self._begun[1], now
            loop.call_soon(self._pump)

    @property
    def idle(self) -> bool:
        """True when nothing waits to be delivered."""
        return self._deliveries is None

    def _pump(self) -> None:
        deliveries = self._deliveries
        if deliveries is None:
            return
        for _ in range(SLICE):
            if next(deliveries, self) is self:
                self._deliveries = None
                return
        asyncio.get_running_loop().call_soon(self._pump)

    def _deliver(self) -> Iterator[None]:
        """Deliver everything pending; yields after each write."""
        while self._pending:
            events, self._pending = self._pending, []
            self.dispatched += len(events)
            for group, relevant in self._relevant(events):
                frames = group.frames(relevant, self._cache)
                if not frames:
                    continue
                joined = frames[0][1] if len(frames) == 1 else b"".join(data for _, data in frames)
                first = frames[0][0]
                if group.tally is not None:
                    for _, data in frames:
                        group.tally.sent(data, len(group.watchers))
                for watcher in list(group.watchers):
                    if watcher.start_revision < first:
                        watcher.deliver(joined)
                    else:
                        for revision, data in frames:
                            if revision > watcher.start_revision:
                                watcher.deliver(data)
                    yield
            for event in events:
                event.frames = None  # the history keeps the event, not every form it was sent in
            self.delivered_revision = events[-1].revision
            yield

    def _relevant(self, events: Sequence[CacheEvent]) -> Iterator[tuple[WatchGroup, Sequence[CacheEvent]]]:
        """Each group that may care, with the events it may care about."""
        for group in list(self._scan):
            yield group, events
        if not self._indexed:
            return
        found: dict[WatchGroup, list[CacheEvent]] = {}
        fields_of = self._cache.fields_of
        for event in events:
            for field in self._indexed_fields:
                values = {fields_of(version).get(field, "") for version in (event.entry, event.previous) if version}
                for value in values:
                    for group in self._indexed.get((field, value), ()):
                        relevant = found.setdefault(group, [])
                        if not relevant or relevant[-1] is not event:
                            relevant.append(event)
        yield from found.items()
