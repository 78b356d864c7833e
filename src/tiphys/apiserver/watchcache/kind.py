"""KindCache: every object of one resource, in key order, and the recent changes.

    entries   {"default/a": Entry, "default/b": Entry, …}     keys (sorted)   ["default/a", "default/b", …]
    history   oldest ───────────────────────────────▶ newest  (CacheEvents, bounded by count and by bytes)
              │ `oldest_revision`: every change after it is in the history

Keys are "namespace/name", or "name" for cluster resources: code-point order of the whole key is the order of a LIST.
Everything happens in the event loop: a reader sees the state between two commits, never inside one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.watchcache.entry import Entry
from tiphys.apiserver.watchcache.event import CacheEvent
from tiphys.apiserver.watchcache.filter import Filter

# Whoever asks for older changes gets them from the store.
MAX_EVENTS: Final = 10_000
MAX_BYTES: Final = 4 * 1024 * 1024  # of the versions in the history, most of which nothing else keeps
MIN_EVENTS: Final = 100

SelectableFields = Callable[[dict[str, Any]], Mapping[str, str]]


class KindCache:
    """The objects of one resource. `prefix` is its part of the store's keys, ending in a slash."""

    def __init__(
        self,
        prefix: str,
        *,
        namespaced: bool,
        selectable_fields: SelectableFields,
        revision: int,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self.prefix = prefix
        self.namespaced = namespaced
        self._selectable_fields = selectable_fields
        self._max_events = max_events
        self.entries: dict[str, Entry] = {}
        self.keys: list[str] = []
        # Why objects that are in the store cannot be read, by key. They are not in `entries`.
        self.unreadable: dict[str, str] = {}
        self.history: deque[CacheEvent] = deque()
        self._history_bytes = 0
        # Every change with a revision greater than this is in `history`.
        self.oldest_revision = revision
        # Revision of the last change of this kind; the state is the same at every later revision of the store.
        self.last_change = revision

    @property
    def capacity(self) -> int:
        """Changes the history holds at most."""
        return self._max_events

    # --- reading ----------------------------------------------------------------------------------
    def get(self, namespace: str, name: str) -> Entry | None:
        """One object."""
        return self.entries.get(f"{namespace}/{name}" if self.namespaced else name)

    def unreadable_among(self, namespace: str, name: str = "") -> tuple[str, str] | None:
        """Key of, and reason for, the first object that cannot be read: of a name, of a namespace, of all ("")."""
        if not self.unreadable:
            return None
        inside = f"{namespace}/" if namespace and self.namespaced else ""
        for key in sorted(self.unreadable):
            if key.startswith(inside) and name in ("", key.rpartition("/")[2]):
                return key, self.unreadable[key]
        return None

    def fields_of(self, entry: Entry) -> Mapping[str, str]:
        """Selectable fields of an entry, computed at most once."""
        fields = entry.known_fields
        if fields is None:
            fields = self._selectable_fields(entry.peek())
            entry.set_fields(fields)
        return fields

    def span(self, namespace: str, start: str = "") -> tuple[int, int]:
        """Index range in `keys` of one namespace ("" all), keys from `start` on."""
        if namespace and self.namespaced:
            first, end = f"{namespace}/", f"{namespace}0"  # "0" follows "/"
            low, high = bisect_left(self.keys, first), bisect_left(self.keys, end)
        else:
            low, high = 0, len(self.keys)
        if start:
            low = max(low, bisect_left(self.keys, start))
        return low, max(low, high)

    def select(self, wanted: Filter, start: str = "") -> Iterator[Entry]:
        """Entries the filter lets through, in key order, keys from `start` on. Do not await while iterating."""
        if wanted.name and (wanted.namespace or not self.namespaced):
            entry = self.get(wanted.namespace, wanted.name)
            if (
                entry is not None
                and entry.key >= start
                and (not wanted.selects or wanted.matches(entry, self.fields_of))
            ):
                yield entry
            return
        low, high = self.span(wanted.namespace, start)
        entries = self.entries
        if not wanted.selects and not wanted.name:
            for key in self.keys[low:high]:
                yield entries[key]
            return
        for key in self.keys[low:high]:
            entry = entries[key]
            if wanted.matches(entry, self.fields_of):
                yield entry

    def since(self, revision: int) -> Sequence[CacheEvent] | None:
        """Changes after `revision`, oldest first; None when the history does not reach back that far."""
        if revision < self.oldest_revision:
            return None
        newer: list[CacheEvent] = []
        for event in reversed(self.history):
            if event.revision <= revision:
                break
            newer.append(event)
        newer.reverse()
        return newer

    # --- writing (by whoever made it only) --------------------------------------------------------
    def load(self, entry: Entry) -> None:
        """Take an object in at start-up; entries come in key order."""
        self.entries[entry.key] = entry
        self.keys.append(entry.key)
        self.last_change = max(self.last_change, entry.revision)

    def reset(self, revision: int) -> None:
        """Forget everything: `load` puts in what there is at `revision`."""
        self.entries.clear()
        self.keys.clear()
        self.history.clear()
        self._history_bytes = 0
        self.oldest_revision = self.last_change = revision

    def put(self, entry: Entry) -> CacheEvent:
        """Take a new version in."""
        previous = self.entries.get(entry.key)
        self.entries[entry.key] = entry
        if previous is None:
            insort(self.keys, entry.key)
        return self._remember(CacheEvent(entry.revision, entry, previous))

    def remove(self, key: str, revision: int) -> CacheEvent | None:
        """Take a deletion in; None when the object was not known."""
        previous = self.entries.pop(key, None)
        if previous is None:
            return None
        del self.keys[bisect_left(self.keys, key)]
        return self._remember(CacheEvent(revision, None, previous))

    def forget_history(self, revision: int) -> None:
        """What led to `revision` is not known in full: nobody may go on from before it."""
        self.history.clear()
        self._history_bytes = 0
        self.oldest_revision = revision

    def _remember(self, event: CacheEvent) -> CacheEvent:
        self.last_change = event.revision
        self.history.append(event)
        self._history_bytes += event.size
        while len(self.history) > self._max_events or (
            self._history_bytes > MAX_BYTES and len(self.history) > MIN_EVENTS
        ):
            forgotten = self.history.popleft()
            self._history_bytes -= forgotten.size
            self.oldest_revision = forgotten.revision
        # A revision is in the history completely or not at all.
        while self.history and self.history[0].revision <= self.oldest_revision:
            self._history_bytes -= self.history.popleft().size
        return event
