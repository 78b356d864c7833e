"""What requests take and give beyond objects: patch types, preconditions, lists, watch events."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class PatchType(StrEnum):
    """How a patch is to be read; the value is its media type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class EventType(StrEnum):
    """The type of a watch event that carries an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preconditions:
    """What must still be true of the object to be deleted; an empty field is not checked."""

    uid: str = ""
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class ListResult(Generic[T]):
    """The objects of a list and the revision it shows; `continue_` is "" on the last page."""

    items: list[T]
    resource_version: str
    continue_: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One change. A BOOKMARK's object carries nothing but its resource version."""

    type: EventType
    object: T
    resource_version: str
    initial_events_end: bool = False
