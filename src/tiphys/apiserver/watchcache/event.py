"""CacheEvent: one change of one object, with its wire forms made once."""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.watchcache.entry import Entry

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
BOOKMARK: Final = "BOOKMARK"
ERROR: Final = "ERROR"


class CacheEvent:
    """`entry` is the new version (None: deleted), `previous` the one before (None: created).

    `frames` has the encoded watch events by (encoder, type) while they are delivered: made for the first watcher,
    shared by the others, None before and after.
    """

    __slots__ = ("entry", "frames", "previous", "revision")

    def __init__(self, revision: int, entry: Entry | None, previous: Entry | None) -> None:
        self.revision = revision
        self.entry = entry
        self.previous = previous
        self.frames: dict[tuple[object, str], bytes] | None = None

    @property
    def subject(self) -> Entry:
        """The version a watcher without selectors is told about."""
        entry = self.entry or self.previous
        assert entry is not None
        return entry

    @property
    def size(self) -> int:
        """Bytes this event keeps alive, roughly."""
        return len(self.subject.tail)
