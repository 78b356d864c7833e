"""Equal parts of cached pods stand in memory once.

    pod a ── spec ── containers ──► (c,)  ◄── containers ── spec ── pod b      (both of one ReplicaSet)

The pods of one owner are made from one template, and an update of a pod changes little of it; decoded one by one, each
would have all of that for itself: seven kilobytes a pod, five of them the same as its sibling's. What is cached is
never changed, so parts may be shared; only the typed fields of pods are compared, where equal means the same.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import force_setattr

from tiphys.client.endpoint import Object
from tiphys.machinery.meta import ObjectName

PARTS: Final = ("metadata", "spec", "status")
MOST_OWNERS: Final = 50_000


class Siblings:
    """Which pod of each owner was seen last: pods made one after another also have their times in common."""

    def __init__(self) -> None:
        self._last: dict[str, ObjectName] = {}

    def share(self, key: ObjectName, obj: Object, old: Object | None, objects: dict[ObjectName, Any]) -> None:
        """Give `obj`, which nobody else has yet, what it has in common with its old state and with a sibling."""
        if old is not None:
            _share(old, obj)
        owners = obj.metadata.owner_references
        # Whoever decodes a few fields of pods only may do without this one.
        owner = getattr(owners[0], "uid", "") if owners else ""
        if not owner:
            return
        sibling = objects.get(self._last.get(owner, key))
        if sibling is not None and sibling is not old:
            _share(sibling, obj)
        if len(self._last) > MOST_OWNERS:
            self._last.clear()  # owners come and go; those that are there are soon known again
        self._last[owner] = key


def _share(known: Any, new: Any) -> None:
    for part in PARTS:
        before, after = getattr(known, part, None), getattr(new, part, None)
        if before is None or after is None or before is after:
            continue
        if before == after:
            force_setattr(new, part, before)
            continue
        for field in after.__struct_fields__:
            mine = getattr(after, field)
            # Numbers, truth values and nothing take no memory of their own.
            if mine.__class__ in _SMALL:
                continue
            theirs = getattr(before, field)
            if theirs is not mine and theirs == mine:
                force_setattr(after, field, theirs)


_SMALL: Final = frozenset({int, bool, type(None)})
