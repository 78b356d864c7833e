"""WatchCache: all kinds in memory, kept current by the store's own commit order.

Start-up reads the whole store in one range and subscribes in the same turn of the loop, so that nothing falls between.
After that every commit updates the cache before the writer's await returns: a read through the cache is as fresh as one
from the store. With a store that other servers share, `wait_fresh` asks it for its revision, which it tells once the
cache has reached it. When changes were missed, everything is read again and watches end: their clients list again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from sys import intern
from typing import Final

from tiphys.apiserver.watchcache.entry import Entry
from tiphys.apiserver.watchcache.event import CacheEvent
from tiphys.apiserver.watchcache.foreign import as_own
from tiphys.apiserver.watchcache.kind import KindCache, SelectableFields
from tiphys.apiserver.watchcache.unreadable import why_unreadable
from tiphys.apiserver.watchcache.watchers import WatcherSet
from tiphys.base.log import get_logger
from tiphys.store.errors import StoreError, StoreTimeoutError
from tiphys.store.interface import Event, EventType, KeyValue, RangeResult, Store, prefix_end

log = get_logger(__name__)

ROOT: Final = "/registry/"
RELOAD_PAUSE: Final = 1.0  # seconds between two attempts to read everything again


class Kind:
    """One resource in the cache: its objects and its watchers.

    `followers` are called with every change, in the turn of the loop in which the cache has it.
    """

    __slots__ = ("cache", "followers", "initializations", "received", "watchers")

    def __init__(self, cache: KindCache) -> None:
        self.cache = cache
        self.watchers = WatcherSet(cache)
        self.followers: list[Callable[[CacheEvent], None]] = []
        self.received = 0  # changes
        self.initializations = 1  # how often everything was read

    def publish(self, change: CacheEvent) -> None:
        """Tell watchers and followers of a change the cache has taken in."""
        self.received += 1
        self.watchers.publish(change)
        for follow in self.followers:
            follow(change)


class WatchCache:
    """Every object of every registered kind. Register kinds, `start`, use; `stop` ends all watches."""

    def __init__(self, store: Store) -> None:
        self.store = store
        # Of a store that seals values: whether it would seal a key's otherwise now than it is sealed.
        self.outdated: Callable[[str], Awaitable[bool]] | None = getattr(store, "outdated", None)
        self.revision = 0
        self._reloading: asyncio.Task[None] | None = None
        self._kinds: dict[str, Kind] = {}  # by "group/plural/", the part of the key behind ROOT
        self._orphans: dict[str, dict[str, tuple[bytes, int, int]]] = {}  # objects of kinds not registered (yet)
        self._unsubscribe: Callable[[], None] | None = None
        # What a writer knows about the version it is about to commit, by store key.
        self._described: dict[str, tuple[bytes, Mapping[str, str], Mapping[str, str]]] = {}
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_count = 0

    # --- life -------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Load the store and follow it. Kinds registered later find their objects too."""
        early: list[Event] = []
        unsubscribe = self.store.subscribe(early.extend)
        loaded = await self.store.range(ROOT, prefix_end(ROOT))
        unsubscribe()
        self._unsubscribe = self.store.subscribe(self._on_events, self._on_missed)
        self.revision = loaded.revision
        for kind in self._kinds.values():
            kind.cache.oldest_revision = kind.cache.last_change = loaded.revision
        for item in loaded.items:
            self._load(item.key, item.value, item.mod_revision, item.create_revision)
        self._on_events([event for event in early if event.kv.mod_revision > loaded.revision])

    def stop(self) -> None:
        """Stop following the store and end every watch."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._reloading is not None:
            self._reloading.cancel()
        for kind in self._kinds.values():
            kind.watchers.end_all()

    def register(self, group: str, plural: str, *, namespaced: bool, selectable_fields: SelectableFields) -> Kind:
        """Make room for a resource, before or after `start`; what the store holds of it is there at once."""
        part = f"{group or 'core'}/{plural}/"
        known = self._kinds.get(part)
        if known is not None:
            return known
        cache = KindCache(
            ROOT + part, namespaced=namespaced, selectable_fields=selectable_fields, revision=self.revision
        )
        kind = self._kinds[part] = Kind(cache)
        for key, (value, revision, created) in sorted(self._orphans.pop(part, {}).items()):
            self._load(ROOT + part + key, value, revision, created)
        return kind

    def unregister(self, group: str, plural: str) -> None:
        """Forget a resource (its definition is gone); its watches end."""
        kind = self._kinds.pop(f"{group or 'core'}/{plural}/", None)
        if kind is not None:
            kind.watchers.end_all()

    def kind(self, group: str, plural: str) -> Kind | None:
        """The resource's part of the cache."""
        return self._kinds.get(f"{group or 'core'}/{plural}/")

    def kinds(self) -> Iterator[tuple[str, str, Kind]]:
        """Every resource in the cache: group, plural and its part."""
        for part, kind in sorted(self._kinds.items()):
            group, plural, _ = part.split("/")
            yield "" if group == "core" else group, plural, kind

    # --- freshness --------------------------------------------------------------------------------
    @property
    def shared(self) -> bool:
        """Whether other servers write too, so that the cache may be behind for a moment."""
        return self.store.shared

    async def wait_fresh(self) -> None:
        """Return once the cache has everything that was committed before the call. Raises StoreTimeoutError."""
        if self.store.shared and not await self.wait_revision(await self.store.current_revision(), 3.0):
            raise StoreTimeoutError("the watch cache is being read again")

    async def wait_revision(self, revision: int, timeout: float) -> bool:
        """Wait until the cache has reached `revision`; False after `timeout` seconds without."""
        if self.revision >= revision:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiter_count += 1
        heappush(self._waiters, (revision, self._waiter_count, waiter))
        try:
            await asyncio.wait_for(waiter, timeout)
        except TimeoutError:
            return False
        return True

    def describe(self, key: str, value: bytes, labels: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Tell the cache labels and fields of a value about to be written to `key`, to spare it the parsing."""
        self._described[key] = (value, labels, fields)

    def forget_description(self, key: str) -> None:
        """The write came to nothing."""
        self._described.pop(key, None)

    # --- following the store ----------------------------------------------------------------------
    def _on_missed(self, revision: int) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
        early: list[Event] = []
        self._unsubscribe = self.store.subscribe(early.extend, self._on_missed)
        self._reloading = asyncio.create_task(self._reload(early), name="watch-cache-reload")

    async def _reload(self, early: list[Event]) -> None:
        """Read everything again; `early` collects what happens meanwhile."""
        while True:
            try:
                loaded = await self.store.range(ROOT, prefix_end(ROOT))
                break
            except StoreError as error:
                log.warning("the state cannot be read again yet: %s", error)
                await asyncio.sleep(RELOAD_PAUSE)
        assert self._unsubscribe is not None
        self._unsubscribe()
        self._unsubscribe = self.store.subscribe(self._on_events, self._on_missed)
        for kind in self._kinds.values():
            kind.cache.unreadable.clear()
        self._on_events(list(self._difference(loaded)))
        for kind in self._kinds.values():
            kind.cache.forget_history(loaded.revision)
            kind.watchers.end_all()
        self._orphans = {}
        for item in loaded.items:
            part, own = self._split(item.key)
            if part not in self._kinds:
                self._orphans.setdefault(part, {})[own] = (item.value, item.mod_revision, item.create_revision)
        self._on_events([event for event in early if event.kv.mod_revision > loaded.revision])
        self._advance(loaded.revision)
        for kind in self._kinds.values():
            kind.initializations += 1
        self._reloading = None

    def _difference(self, loaded: RangeResult) -> Iterator[Event]:
        """What turns the cached objects into the loaded ones: changes by revision, then deletions."""
        there = {item.key for item in loaded.items}
        for item in sorted(loaded.items, key=lambda item: item.mod_revision):
            part, own = self._split(item.key)
            kind = self._kinds.get(part)
            known = kind.cache.entries.get(own) if kind is not None else None
            if kind is not None and (known is None or known.revision != item.mod_revision):
                yield Event(EventType.PUT, item, None)
        for kind in self._kinds.values():
            for own in list(kind.cache.entries):
                key = kind.cache.prefix + own
                if key not in there:
                    yield Event(EventType.DELETE, KeyValue(key, b"", 0, loaded.revision, 0), None)

    def _split(self, key: str) -> tuple[str, str]:
        """ "/registry/core/pods/default/a" → ("core/pods/", "default/a")."""
        parts = key[len(ROOT) :].split("/", 2)
        if len(parts) < 3:
            return "", ""
        return f"{parts[0]}/{parts[1]}/", parts[2]

    def _load(self, key: str, value: bytes, revision: int, created: int) -> None:
        part, own = self._split(key)
        kind = self._kinds.get(part)
        if kind is None:
            self._orphans.setdefault(part, {})[own] = (value, revision, created)
            return
        entry = self._entry(kind.cache, own, key, value, revision, created)
        if entry is not None:
            kind.cache.load(entry)

    def _entry(self, cache: KindCache, own: str, key: str, value: bytes, revision: int, created: int) -> Entry | None:
        namespace, _, name = own.rpartition("/")
        namespace = intern(namespace)
        try:
            entry = Entry(own, namespace, name, value, revision, created)
        except ValueError as error:
            theirs = as_own(value)
            if theirs is not None:
                return Entry(own, namespace, name, theirs, revision, created)
            why = why_unreadable(value)
            if why is None:
                log.error("ignored: %s", error)
            elif own not in cache.unreadable:
                log.error("%s cannot be read: %s", key, why)
                cache.unreadable[own] = why
            return None
        described = self._described.pop(key, None)
        if described is not None and (described[0] is value or described[0] == value):
            entry.describe(described[1], described[2])
        return entry

    def _on_events(self, events: Sequence[Event]) -> None:
        for event in events:
            kv = event.kv
            key = kv.key
            if not key.startswith(ROOT):
                continue
            part, own = self._split(key)
            kind = self._kinds.get(part)
            if kind is None:
                self._keep_orphan(part, own, event)
                continue
            unreadable = kind.cache.unreadable
            if unreadable:
                unreadable.pop(own, None)
            if event.type is EventType.DELETE:
                change = kind.cache.remove(own, kv.mod_revision)
            else:
                entry = self._entry(kind.cache, own, key, kv.value, kv.mod_revision, kv.create_revision)
                change = kind.cache.put(entry) if entry is not None else None
                if entry is None and own in unreadable:
                    self._on_unreadable(kind, own, kv.mod_revision)
            if change is not None:
                kind.publish(change)
        if events:
            self._advance(events[-1].kv.mod_revision)

    def _on_unreadable(self, kind: Kind, own: str, revision: int) -> None:
        """Nobody can be told what an object has become: whoever watches its kind has to list again, which says why."""
        change = kind.cache.remove(own, revision)
        if change is not None:
            for follow in kind.followers:
                follow(change)
        kind.cache.forget_history(revision)
        kind.watchers.end_all()

    def read_again(self) -> None:
        """Read everything again where something could not be read: now it may be."""
        if any(kind.cache.unreadable for kind in self._kinds.values()):
            self._on_missed(self.revision)

    def _advance(self, revision: int) -> None:
        """Everything up to `revision` is in the cache."""
        self.revision = max(self.revision, revision)
        while self._waiters and self._waiters[0][0] <= self.revision:
            waiter = heappop(self._waiters)[2]
            if not waiter.done():
                waiter.set_result(None)

    def _keep_orphan(self, part: str, own: str, event: Event) -> None:
        if event.type is EventType.DELETE:
            self._orphans.get(part, {}).pop(own, None)
        else:
            kv = event.kv
            self._orphans.setdefault(part, {})[own] = (kv.value, kv.mod_revision, kv.create_revision)
