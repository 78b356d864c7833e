"""The entries of `managedFields`: who owns what, read and written.

An owner is a manager's name, the operation (Apply or Update), for updates the apiVersion, and the subresource.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tiphys.machinery.field import quote
from tiphys.machinery.fieldset import Node, order, ordered, union
from tiphys.machinery.time import parse_rfc3339

Object = dict[str, Any]
Entry = dict[str, Any]

# More updaters than these are not told apart: the oldest are joined under one name.
MAX_UPDATERS: Final = 10
ANCIENT: Final = "ancient-changes"


class Owner(NamedTuple):
    """Who owns a set. An applier is the same whatever version it applies in."""

    manager: str
    operation: str
    api_version: str
    subresource: str

    def __str__(self) -> str:
        """As conflicts name it."""
        text = quote(self.manager)
        if self.subresource:
            text += f" with subresource {quote(self.subresource)}"
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class Owned:
    """What an owner owns, in the fields of one version; `time` of its last change as text.

    `stored`: the fields are as they were read, and so in the server's order.
    """

    fields: Node
    api_version: str
    time: str | None = None
    stored: bool = False

    def with_fields(self, fields: Node) -> Owned:
        """The same owner's, changed."""
        return Owned(fields, self.api_version, self.time)


Managed = dict[Owner, Owned]


def entries_of(obj: Object) -> list[Entry]:
    entries: list[Entry] = (obj.get("metadata") or {}).get("managedFields") or []
    return entries


def decode(entries: list[Entry]) -> Managed:
    """Entries by owner; nothing when one of them makes no sense."""
    managed: Managed = {}
    for entry in entries:
        operation = entry.get("operation", "")
        if operation not in {"Apply", "Update"} or not isinstance(entry.get("fieldsV1") or {}, dict):
            return {}
        version = entry.get("apiVersion", "")
        owner = Owner(
            entry.get("manager", ""),
            operation,
            "" if operation == "Apply" else version,
            entry.get("subresource", ""),
        )
        managed[owner] = Owned(entry.get("fieldsV1") or {}, version, entry.get("time"), stored=True)
    return managed


def well_formed(entries: list[Entry]) -> bool:
    """Is every path element of every entry one that can be? What clients send need not be."""
    try:
        return all(_well_formed(entry.get("fieldsV1") or {}) for entry in entries)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def _well_formed(node: Node) -> bool:
    for key, child in node.items():
        order(key)
        if key[0] != "." and key[1] != ":":
            return False
        if child and not _well_formed(child):
            return False
    return True


def encode(managed: Managed) -> list[Entry]:
    """Entries in the server's order: Apply before Update, then by time and name."""

    if len(managed) == 1:
        return [_entry(owner, owned) for owner, owned in managed.items()]

    def key(item: tuple[Owner, Owned]) -> tuple[str, float, str, str, str]:
        owner, owned = item
        seconds = parse_rfc3339(owned.time).timestamp() if owned.time else 0.0
        return owner.operation, seconds, owner.manager, owned.api_version, owner.subresource

    return [_entry(owner, owned) for owner, owned in sorted(managed.items(), key=key)]


def _entry(owner: Owner, owned: Owned) -> Entry:
    entry: Entry = {"manager": owner.manager, "operation": owner.operation, "apiVersion": owned.api_version}
    if owned.time:
        entry["time"] = owned.time
    entry["fieldsType"] = "FieldsV1"
    entry["fieldsV1"] = owned.fields if owned.stored else ordered(owned.fields)
    if owner.subresource:
        entry["subresource"] = owner.subresource
    return entry


def same_but_times(left: list[Entry], right: list[Entry]) -> bool:
    """Do two lists say the same but for when? Then nothing has happened, and the old times stay."""
    return [{**one, "time": None} for one in left] == [{**one, "time": None} for one in right]


def capped(managed: Managed) -> Managed:
    """At most MAX_UPDATERS updaters: the oldest of a version are joined into one."""
    updaters = [owner for owner in managed if owner.operation == "Update"]
    excess = len(updaters) - MAX_UPDATERS
    if excess <= 0:
        return managed
    updaters.sort(key=lambda owner: (managed[owner].time or "", owner.manager))
    out = dict(managed)
    first_of: dict[str, Owner] = {}
    for owner in updaters:
        if excess <= 0:
            break
        version = owner.api_version
        if version not in first_of:
            first_of[version] = owner
            continue
        bucket = Owner(ANCIENT, "Update", version, "")
        if bucket not in out:
            out[bucket] = out.pop(first_of[version])
        if owner == bucket:
            continue
        joined = out.pop(owner)
        out[bucket] = Owned(union(out[bucket].fields, joined.fields), version, joined.time)
        excess -= 1
    return out
