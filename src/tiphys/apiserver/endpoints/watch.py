"""WATCH: the state so far, then every change, until the client or the time is up.

    resourceVersion   ""     what is there now as ADDED events, then changes
                      "0"    the same
                      "n"    changes after n: from the cache's history, else from the store's, else ERROR 410 Expired
    sendInitialEvents        with a bookmark that ends the initial part

The watcher is registered and the initial part collected in one turn of the loop, so nothing falls between; changes that
arrive while the initial part is being sent wait in the watcher's queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

from tiphys.apiserver.endpoints.forms import Form
from tiphys.apiserver.endpoints.list_options import ListOptions, parse_revision
from tiphys.apiserver.http.response import Headers, Stream, StreamResponse
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.watch_metrics import WatchTally
from tiphys.apiserver.watchcache import CacheEvent, Entry, Filter, WatchCache, Watcher
from tiphys.apiserver.watchcache.foreign import entry_of
from tiphys.apiserver.watchcache.unreadable import why_unreadable
from tiphys.machinery.errors import StatusError, expired, plain_error
from tiphys.store import CompactedError, EventType, KeyValue, prefix_end

BOOKMARK_INTERVAL = 60.0  # seconds; upstream's frequency
LAST_BOOKMARK = 2.0  # seconds before the end of a watch
MIN_TIMEOUT = 1800  # seconds a watch without timeoutSeconds lasts at least; at most twice that
PIECE = 128 * 1024  # bytes of initial events written at once
CATCH_UP_LIMIT = 100_000  # events taken from the store for one watcher; older than that is as good as compacted


def watch_objects(
    served: ServedResource,
    cache: WatchCache,
    form: Form,
    options: ListOptions,
    wanted: Filter,
    headers: Headers = (),
    begun: Callable[[], None] | None = None,
) -> StreamResponse:
    """Answer a WATCH; `begun` is called when the initial part was sent. StatusError for a wrong resourceVersion."""
    start = 0
    if options.resource_version:
        try:
            start = parse_revision(options.resource_version)
        except ValueError as error:
            raise plain_error(str(error)) from None
    watch = _Watch(served, cache, form, options, wanted, start, begun)
    return StreamResponse(watch.run, content_type=form.stream_type, headers=headers)


class _Watch:
    """One watch request."""

    def __init__(
        self,
        served: ServedResource,
        cache: WatchCache,
        form: Form,
        options: ListOptions,
        wanted: Filter,
        start: int,
        begun: Callable[[], None] | None,
    ) -> None:
        self._kind = served.store.kind
        self._store = served.store
        self._tally = WatchTally.of(served.resource.group, served.resource.version, served.resource.plural)
        self._cache = cache
        self._form = form
        self._options = options
        self._wanted = wanted
        self._start = start
        self._begun = begun
        seconds = options.timeout
        self._bookmarked = False  # the last bookmark was sent
        self._deadline = 0.0  # when it ends, in the loop's time
        self._timeout = float(seconds) if seconds else random.uniform(MIN_TIMEOUT, 2 * MIN_TIMEOUT)

    async def run(self, stream: Stream) -> None:
        """Serve until the client leaves, the time is up or the server stops."""
        self._deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._serve(stream)
        except TimeoutError:
            pass

    async def _serve(self, stream: Stream) -> None:
        options = self._options
        with_state = not self._start or options.send_initial_events is True
        if with_state and options.send_initial_events is False:
            with_state = False
        if self._start and not await self._cache.wait_revision(self._start, self._timeout):
            return
        if not self._start and not options.resource_version:
            await self._cache.wait_fresh()
        try:
            await self._store.fresh()
            older = await self._older(stream, with_state=with_state)
            await self._store.fresh()
            self._store.check_all_readable(self._wanted.namespace, self._wanted.name)
        except StatusError as error:
            stream.write_framed(self._form.error(error.status))
            return
        if older is None:
            return
        # From here to `add` nothing is awaited.
        registered = self._store.revision
        watcher = Watcher(stream, registered)
        initial: Iterator[bytes]
        if with_state:
            entries = list(self._kind.cache.select(self._wanted))
            initial = map(self._form.initial, entries)
        else:
            changes = self._kind.cache.since(self._start or registered)
            if changes is None:
                stream.write_framed(self._form.error(too_old(self._start, self._kind.cache.oldest_revision)))
                return
            initial = self._changes(list(changes))
        group = self._kind.watchers.add(self._wanted, self._form, watcher, self._tally)
        try:
            await self._send(stream, older)
            await self._send(stream, initial)
            if with_state and options.allow_bookmarks:
                stream.write_framed(self._form.bookmark(registered, initial_end=True))
            if self._begun is not None:
                self._begun()
            stream.on_writable(watcher.flush)
            watcher.release()
            await self._until_end(stream, watcher)
        finally:
            self._kind.watchers.remove(group, watcher)

    async def _older(self, stream: Stream, *, with_state: bool) -> list[bytes] | None:
        """Frames of changes the cache has forgotten; None (and an ERROR event) when the store has too."""
        if with_state or not self._start or self._kind.cache.since(self._start) is not None:
            return []
        caught_up = await self._from_store(stream)
        if caught_up is None:
            return None
        frames, self._start = caught_up
        return frames

    def _changes(self, changes: list[CacheEvent]) -> Iterator[bytes]:
        fields_of = self._kind.cache.fields_of
        for event in changes:
            kind = self._wanted.judge(event, fields_of)
            if kind is not None:
                yield self._form.frame(event, kind)

    async def _send(self, stream: Stream, frames: Iterator[bytes] | list[bytes]) -> None:
        waiting: list[bytes] = []
        size = 0
        for data in frames:
            waiting.append(data)
            self._tally.sent(data)
            size += len(data)
            if size >= PIECE:
                stream.write_framed(b"".join(waiting))
                waiting.clear()
                size = 0
                await stream.drain()
                await asyncio.sleep(0)
        if waiting:
            stream.write_framed(b"".join(waiting))

    async def _until_end(self, stream: Stream, watcher: Watcher) -> None:
        closed = asyncio.ensure_future(stream.wait_closed())
        try:
            while not watcher.ended.done() and not stream.closed:
                pause = self._until_bookmark()
                await asyncio.wait((closed, watcher.ended), timeout=pause, return_when="FIRST_COMPLETED")
                if closed.done() or watcher.ended.done():
                    return
                if self._options.allow_bookmarks and self._kind.watchers.idle:
                    watcher.deliver(self._form.bookmark(self._store.revision, initial_end=False))
        finally:
            closed.cancel()

    def _until_bookmark(self) -> float:
        """Seconds to the next bookmark. One comes shortly before the end, so that the next watch has little to read."""
        left = self._deadline - asyncio.get_running_loop().time()
        if left > LAST_BOOKMARK:
            return min(BOOKMARK_INTERVAL, left - LAST_BOOKMARK)
        if not self._bookmarked:
            self._bookmarked = True
            return 0.0
        return left + 1.0

    async def _from_store(self, stream: Stream) -> tuple[list[bytes], int] | None:
        """Frames of the changes up to now, read from the store; None (and an ERROR event) when compacted."""
        cache = self._kind.cache
        until = self._cache.revision
        watcher = self._cache.store.watch(cache.prefix, prefix_end(cache.prefix), from_revision=self._start + 1)
        frames: list[bytes] = []
        previous: dict[str, Entry] = {}
        try:
            while watcher.revision < until and len(frames) < CATCH_UP_LIMIT:
                try:
                    batch = await asyncio.wait_for(anext(watcher), 1.0)
                except TimeoutError:
                    break
                found = [self._event(event.type, event.kv, event.prev, previous) for event in batch]
                changes = [change for change in found if change is not None and change.revision <= until]
                frames += self._changes(await self._shown(changes))
        except CompactedError as error:
            stream.write_framed(self._form.error(too_old(self._start, error.compact_revision)))
            return None
        finally:
            watcher.close()
        return frames, until

    def _event(
        self, kind: EventType, kv: KeyValue, prev: KeyValue | None, known: dict[str, Entry]
    ) -> CacheEvent | None:
        before = known.get(kv.key) or (self._entry(prev) if prev is not None else None)
        if kind is EventType.DELETE:
            known.pop(kv.key, None)
            return CacheEvent(kv.mod_revision, None, before) if before is not None else None
        after = known[kv.key] = self._entry(kv)
        return CacheEvent(after.revision, after, before)

    async def _shown(self, changes: list[CacheEvent]) -> list[CacheEvent]:
        """The changes as the store of this version shows their objects."""
        versions = [one for change in changes for one in (change.entry, change.previous) if one is not None]
        shown = dict(zip(map(id, versions), await self._store.shown(versions), strict=True))
        return [
            CacheEvent(change.revision, shown.get(id(change.entry)), shown.get(id(change.previous)))
            for change in changes
        ]

    def _entry(self, kv: KeyValue) -> Entry:
        own = kv.key[len(self._kind.cache.prefix) :]
        try:
            return entry_of(kv, own)
        except ValueError as error:
            raise self._store.cannot_read(own, why_unreadable(kv.value) or str(error)) from None


def too_old(start: int, oldest: int) -> dict[str, object]:
    """The Status of a watch that asks for what is no longer kept."""
    return expired(f"too old resource version: {start} ({oldest})").status
