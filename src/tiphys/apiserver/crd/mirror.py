"""One version of the objects of a definition with a conversion webhook, kept beside what the store holds.

    raw kind (bytes as stored) ── every change ──▶ queue ── converted, one request a batch ──▶ own kind: lists, watches
                                                     │ nothing to ask the webhook for: at once, in the same turn
                                                     └ nobody looks: it waits; too long: everything is forgotten

Loaded by the first list or watch. A failure of the webhook leaves the queue as it is and ends the watches; the next
request tries again, and is told why it fails.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tiphys.apiserver.crd.translator import Translator
from tiphys.apiserver.watchcache import CacheEvent, Entry, Kind, WatchCache
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

MAX_WAITING: Final = 1000  # changes kept for a version nobody watches


class Mirror:
    """`kind` follows `source` in the version `api_version`."""

    def __init__(
        self,
        source: Kind,
        kind: Kind,
        api_version: str,
        translator: Translator,
        cache: WatchCache,
        tasks: Supervised,
    ) -> None:
        self.source = source
        self.kind = kind
        self._api_version = api_version
        self._translator = translator
        self._cache = cache
        self._tasks = tasks
        self._queue: deque[CacheEvent] = deque()
        self._following = False  # changes are queued
        self._loaded = False
        self._lock = asyncio.Lock()
        kind.cache.unreadable = source.cache.unreadable
        source.followers.append(self._follow)

    def detach(self) -> None:
        """Follow nothing any more; watches end."""
        if self._follow in self.source.followers:
            self.source.followers.remove(self._follow)
        self._forget()
        self.kind.watchers.end_all()

    @property
    def revision(self) -> int:
        """The revision of the store whose state `kind` shows; 0 before it was loaded."""
        if not self._loaded:
            return 0
        return self._queue[0].revision - 1 if self._queue else self._cache.revision

    async def fresh(self) -> None:
        """Return when `kind` has every change the source has. StatusError (500) when the webhook fails."""
        if self._loaded and not self._queue:
            return
        async with self._lock:
            if not self._loaded:
                await self._load()
            while self._queue:
                await self._take()

    async def find(self, namespace: str, name: str) -> Entry | None:
        """One object as it is now; the webhook is asked for no other."""
        if self._loaded and not self._queue:
            return self.kind.cache.get(namespace, name)
        entry = self.source.cache.get(namespace, name)
        return None if entry is None else (await self._translator.entries([entry], self._api_version))[0]

    # --- following --------------------------------------------------------------------------------
    def _follow(self, event: CacheEvent) -> None:
        if not self._following:
            return
        if self._loaded and not self._queue and not self._lock.locked() and self._ready(event):
            return
        self._queue.append(event)
        if len(self.kind.watchers):
            if len(self._queue) == 1:
                self._tasks.spawn(self._catch_up, name="custom-resource-versions")
        elif len(self._queue) > MAX_WAITING and not self._lock.locked():
            self._forget()

    def _ready(self, event: CacheEvent) -> bool:
        """Take a change in at once, where that needs no webhook."""
        if event.entry is None:
            self._apply(event, None)
            return True
        entry = self._translator.in_version(event.entry, self._api_version)
        if entry is None:
            return False
        self._apply(event, entry)
        return True

    def _forget(self) -> None:
        self._following = self._loaded = False
        self._queue.clear()
        self.kind.cache.reset(self._cache.revision)

    async def _catch_up(self) -> None:
        try:
            await self.fresh()
        except StatusError as error:
            # Whoever watches asks again, and hears the reason then.
            log.warning("%s: %s", self._api_version, error)
            self.kind.watchers.end_all()

    async def _load(self) -> None:
        source = self.source.cache
        entries, revision = [source.entries[key] for key in source.keys], self._cache.revision
        self._queue.clear()
        self._following = True
        try:
            shown = await self._translator.entries(entries, self._api_version)
        except BaseException:
            self._following = False
            self._queue.clear()
            raise
        self.kind.cache.reset(revision)
        for entry in shown:
            self.kind.cache.load(entry)
        self.kind.cache.last_change = revision
        self._loaded = True

    async def _take(self) -> None:
        """Take in what waits now."""
        batch = list(self._queue)
        changed = [event.entry for event in batch if event.entry is not None]
        shown = iter(await self._translator.entries(changed, self._api_version))
        for event in batch:
            self._queue.popleft()
            self._apply(event, None if event.entry is None else next(shown))

    def _apply(self, event: CacheEvent, entry: Entry | None) -> None:
        cache = self.kind.cache
        change = cache.put(entry) if entry is not None else cache.remove(event.subject.key, event.revision)
        if change is not None:
            self.kind.publish(change)
