"""Hearing of changes inside the server: an event that is set when an object of some kinds was written or deleted.

It stands among the kind's watchers and takes no bytes. Level-driven users look at the cache when it is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from tiphys.apiserver.watchcache.event import CacheEvent
from tiphys.apiserver.watchcache.filter import Filter
from tiphys.apiserver.watchcache.hub import Kind
from tiphys.apiserver.watchcache.watchers import Watcher, WatchGroup

_EVERYTHING: Final = Filter()


class Changes:
    """`changed` is set after every change of one of the kinds, until `close`."""

    # For the watchers' side: it always takes more, and its form of an event is empty.
    writable = True
    key = "changes"

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.changed = asyncio.Event()
        self._places: list[tuple[Kind, WatchGroup, Watcher]] = []
        for kind in kinds:
            watcher = Watcher(self, kind.cache.last_change)
            watcher.release()
            self._places.append((kind, kind.watchers.add(_EVERYTHING, self, watcher), watcher))

    def close(self) -> None:
        """Hear of nothing any more."""
        for kind, group, watcher in self._places:
            kind.watchers.remove(group, watcher)
            watcher.end()
        self._places.clear()

    def write_framed(self, data: bytes) -> None:
        """An event was delivered."""
        self.changed.set()

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """No bytes are needed."""
        return b""
