"""Filter: which objects a list or watch is about, and what a change looks like through it.

before   after    the watcher sees
no       match    ADDED
match    match    MODIFIED
match    no       DELETED, with the object as it was before
no       no       nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tiphys.apiserver.watchcache.entry import Entry
from tiphys.apiserver.watchcache.event import ADDED, DELETED, MODIFIED, CacheEvent
from tiphys.machinery.selectors import FieldSelector, LabelSelector


@dataclass(frozen=True)
class Filter:
    """Namespace ("" all), name ("" all) and selectors (None: everything). Equal filters share one watch group."""

    namespace: str = ""
    name: str = ""
    label_text: str = ""
    field_text: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None

    def __hash__(self) -> int:
        return hash((self.namespace, self.name, self.label_text, self.field_text))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Filter)
            and self.namespace == other.namespace
            and self.name == other.name
            and self.label_text == other.label_text
            and self.field_text == other.field_text
        )

    @property
    def selects(self) -> bool:
        """True when labels or fields have to be looked at."""
        return self.labels is not None or self.fields is not None

    def matches(self, entry: Entry, fields_of: Callable[[Entry], Mapping[str, str]]) -> bool:
        """Whether the filter lets `entry` through."""
        if self.namespace and entry.namespace != self.namespace:
            return False
        if self.name and entry.name != self.name:
            return False
        if self.labels is not None and not self.labels.matches(entry.labels):
            return False
        return self.fields is None or self.fields.matches(fields_of(entry))

    def judge(self, event: CacheEvent, fields_of: Callable[[Entry], Mapping[str, str]]) -> str | None:
        """The type of event seen through the filter, or None. See the table above."""
        if self.selects:
            before = event.previous is not None and self.matches(event.previous, fields_of)
            after = event.entry is not None and self.matches(event.entry, fields_of)
            if after:
                return MODIFIED if before else ADDED
            return DELETED if before else None
        subject = event.subject
        if (self.namespace and subject.namespace != self.namespace) or (self.name and subject.name != self.name):
            return None
        if event.entry is None:
            return DELETED
        return ADDED if event.previous is None else MODIFIED
