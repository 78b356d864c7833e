"""Versions of keys in memory.

versions   /a -> [put@2, put@5, delete@7]      newest last; compaction drops from the front
order      [/a, /b, /c]                        every key with versions, sorted, for ranges
log        [(2, events), (3, events), ...]     by revision, for watches
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence

from tiphys.store.interface import Event, EventType, KeyValue, in_range


class VersionedKeys:
    """All kept versions of all keys, and the log of changes since the last compaction."""

    def __init__(self) -> None:
        self._versions: dict[str, list[KeyValue]] = {}  # version 0 marks a deletion
        self._order: list[str] = []
        self._log: list[tuple[int, Sequence[Event]]] = []

    def current(self, key: str) -> KeyValue | None:
        versions = self._versions.get(key)
        return versions[-1] if versions and versions[-1].version else None

    def current_range(self, start: str, end: str) -> list[KeyValue]:
        return [kv for key in self._keys(start, end) if (kv := self.current(key)) is not None]

    def at(self, key: str, revision: int) -> KeyValue | None:
        """The key as it was at `revision`."""
        versions = self._versions.get(key, ())
        index = bisect_right(versions, revision, key=lambda kv: kv.mod_revision)
        return versions[index - 1] if index and versions[index - 1].version else None

    def range_at(self, start: str, end: str, revision: int) -> list[KeyValue]:
        return [kv for key in self._keys(start, end) if (kv := self.at(key, revision)) is not None]

    def apply(self, events: Sequence[Event]) -> None:
        """Add one revision."""
        for event in events:
            versions = self._versions.get(event.kv.key)
            if versions is None:
                self._versions[event.kv.key] = [event.kv]
                insort(self._order, event.kv.key)
            else:
                versions.append(event.kv)
        self._log.append((events[0].kv.mod_revision, events))

    def history(self, start: str, end: str, from_revision: int, limit: int) -> Iterator[tuple[int, list[Event]]]:
        """The events of a range by revision, until `limit` of them."""
        count = 0
        for revision, events in self._log[bisect_left(self._log, from_revision, key=lambda entry: entry[0]) :]:
            found = [event for event in events if in_range(event.kv.key, start, end)]
            if found:
                yield revision, found
                count += len(found)
            if count >= limit:
                return

    def compact(self, revision: int) -> None:
        """Drop versions replaced at or before `revision`, and deletions before it."""
        self._log = self._log[bisect_left(self._log, revision, key=lambda entry: entry[0]) :]
        for key in list(self._versions):
            versions = self._versions[key]
            first = bisect_right(versions, revision, key=lambda kv: kv.mod_revision) - 1
            if first >= 0 and not versions[first].version and versions[first].mod_revision < revision:
                first += 1
            del versions[: max(first, 0)]
            if not versions:
                del self._versions[key]
        self._order = sorted(self._versions)

    def size(self) -> int:
        """Bytes of all kept keys and values."""
        return sum(len(kv.key) + len(kv.value) for versions in self._versions.values() for kv in versions)

    def kept(self) -> Iterator[KeyValue]:
        """Every kept version, in no order."""
        for versions in self._versions.values():
            yield from versions

    def load(self, kept: Sequence[KeyValue]) -> None:
        """Fill from the kept versions of a snapshot, in the order of revisions."""
        changes: dict[int, list[Event]] = {}
        for kv in kept:
            prev = self.current(kv.key)
            kind = EventType.PUT if kv.version else EventType.DELETE
            event = Event(kind, kv, prev)
            changes.setdefault(kv.mod_revision, []).append(event)
            self._versions.setdefault(kv.key, []).append(kv)
        self._order = sorted(self._versions)
        self._log = sorted(changes.items())

    def _keys(self, start: str, end: str) -> Sequence[str]:
        if not end:
            return (start,)
        return self._order[bisect_left(self._order, start) : bisect_left(self._order, end)]
