"""Who owns which field: `managedFields` of updates, and server-side apply.

    update:  live ──compare──▶ new     what changed is the updater's; whoever had it loses it
    apply:   live + applied  = merged  what the applier's last set had, and nobody else has, goes
                    └ the applied fields are the applier's; another owner of a changed one is a conflict

Source: Kubernetes documentation, "Server-Side Apply"; KEP-555.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from tiphys.machinery.errors import StatusError, apply_conflict, bad_request, status_of
from tiphys.machinery.fieldset import (
    LEAF,
    Node,
    difference,
    intersection,
    paths,
    recursive_difference,
    union,
)
from tiphys.machinery.normalize import zero
from tiphys.machinery.patch.managed import (
    Entry,
    Managed,
    Object,
    Owned,
    Owner,
    capped,
    decode,
    encode,
    entries_of,
    same_but_times,
    well_formed,
)
from tiphys.machinery.patch.typed import (
    Comparison,
    compare,
    field_set,
    merge,
    problems,
    remove,
    set_by_creation,
    with_named_parents,
)
from tiphys.machinery.schema import TypeSchema
from tiphys.machinery.time import format_time

__all__ = [
    "Applied",
    "Tracker",
    "decode",
    "encode",
    "same_but_times",
    "server_side_apply",
    "update_managed_fields",
]

# Gives an object in another version of its API, with that version's schema; None when there is no such version.
Converter = Callable[[Object, str], "tuple[Object, TypeSchema] | None"]

# Nobody owns these.
STRIPPED: Final[Node] = {
    "f:apiVersion": LEAF,
    "f:kind": LEAF,
    "f:metadata": {
        ".": LEAF,
        **{
            f"f:{name}": LEAF
            for name in (
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "clusterName",
                "generation",
                "managedFields",
                "resourceVersion",
            )
        },
    },
}
BEFORE_FIRST_APPLY: Final = "before-first-apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
MAX_ANNOTATIONS_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """The tracking of one resource's (or subresource's) fields.

    `ignored` are the fields that writes through it do not touch: status for the resource, spec for its status.
    `convert` is needed only where a resource is served in several versions.
    """

    schema: TypeSchema
    api_version: str
    subresource: str = ""
    ignored: Node = field(default_factory=dict)
    convert: Converter | None = None

    def owner(self, manager: str, operation: str) -> Owner:
        version = "" if operation == "Apply" else self.api_version
        return Owner(manager, operation, version, self.subresource)

    def compare(self, old: Object, new: Object) -> Comparison:
        return self._without_ignored(compare(old, new, self.schema))

    def compare_in(self, api_version: str, old: Object, new: Object) -> Comparison | None:
        """The comparison in another version; None when it is not served (any more)."""
        before = self.convert(old, api_version) if self.convert is not None else None
        after = self.convert(new, api_version) if self.convert is not None else None
        if before is None or after is None:
            return None
        return self._without_ignored(compare(before[0], after[0], after[1]))

    def _without_ignored(self, found: Comparison) -> Comparison:
        if not self.ignored:
            return found
        return Comparison(*(recursive_difference(part, self.ignored) for part in found))


class Applied(NamedTuple):
    """The outcome of an apply. `changed` is False when the object itself stays as it was."""

    object: Object
    managed_fields: list[Entry]
    changed: bool


def update_managed_fields(
    live: Object | None,
    new: Object,
    manager: str,
    schema: TypeSchema,
    now: datetime,
    *,
    api_version: str,
    subresource: str = "",
    ignored: Node | None = None,
    convert: Converter | None = None,
) -> list[Entry]:
    """The managedFields after a create (`live` is None) or an update, both in normal form and defaulted.

    Neither object is changed; the caller puts the result into the new one. An object whose fields are not tracked
    (managedFields was emptied) stays so until its first apply.
    """
    tracker = Tracker(
        schema=schema, api_version=api_version, subresource=subresource, ignored=ignored or {}, convert=convert
    )
    managed = _decode_live_or_new(live, new, subresource)
    if live is not None and not managed:
        return []
    if live is None and not managed:
        return _first_entries(tracker, new, manager, now)
    before = zero(schema) if live is None else live
    updated = _update(tracker, before, new, managed, manager, now)
    return encode(capped(updated))


def _first_entries(tracker: Tracker, new: Object, manager: str, now: datetime) -> list[Entry]:
    """Of a new object everything belongs to who made it."""
    created = difference(set_by_creation(new, tracker.schema), STRIPPED)
    if tracker.ignored:
        created = recursive_difference(created, tracker.ignored)
    if not created:
        return []
    return encode({tracker.owner(manager, "Update"): Owned(created, tracker.api_version, format_time(now))})


def _decode_live_or_new(live: Object | None, new: Object, subresource: str) -> Managed:
    """The request's own managedFields win, so that they can be edited; [{}] empties them."""
    ours = decode(entries_of(live)) if live is not None else {}
    if subresource:
        return ours
    theirs = entries_of(new)
    if len(theirs) == 1 and not theirs[0]:
        return {}
    if live is not None and theirs == entries_of(live):
        return ours
    return (decode(theirs) if well_formed(theirs) else {}) or ours


def _update(tracker: Tracker, live: Object, new: Object, managed: Managed, manager: str, now: datetime) -> Managed:
    found = tracker.compare(live, new)
    if found.empty:
        return managed
    managed, _ = _take(tracker, live, new, found, managed, None)
    taken = difference(union(found.modified, found.added), STRIPPED)
    if taken:
        owner = tracker.owner(manager, "Update")
        previous = managed.get(owner)
        fields = union(previous.fields, taken) if previous is not None else taken
        managed[owner] = Owned(fields, tracker.api_version, format_time(now))
    return managed


def _take(
    tracker: Tracker, live: Object, new: Object, found: Comparison, managed: Managed, applier: Owner | None
) -> tuple[Managed, Managed]:
    """(managed without what others lose by this change, what of theirs is taken from them)."""
    versions: dict[str, Comparison | None] = {tracker.api_version: found}
    out: Managed = {}
    taken: Managed = {}
    for owner, owned in managed.items():
        if owner == applier:
            out[owner] = owned
            continue
        if owned.api_version != tracker.api_version and tracker.convert is None:
            out[owner] = owned
            continue
        if owned.api_version not in versions:
            versions[owned.api_version] = tracker.compare_in(owned.api_version, live, new)
        theirs = versions[owned.api_version]
        if theirs is None:
            # A version that is gone: nobody can know what its fields were.
            continue
        lost = intersection(owned.fields, union(theirs.modified, theirs.added))
        if lost:
            taken[owner] = owned.with_fields(lost)
        rest = difference(difference(owned.fields, lost), theirs.removed)
        if rest:
            out[owner] = owned if rest == owned.fields else owned.with_fields(rest)
    return out, taken


def server_side_apply(
    live: Object | None,
    applied: Object,
    manager: str,
    force: bool,
    schema: TypeSchema,
    now: datetime,
    *,
    api_version: str,
    subresource: str = "",
    ignored: Node | None = None,
    convert: Converter | None = None,
) -> Applied:
    """Apply a configuration to the live object in normal form (None: it does not exist yet).

    The result has its managedFields set; it is not yet in normal form nor defaulted. Raises StatusError: 409 with a
    cause a conflict, 400 for another version or managedFields in the configuration, 500 for fields that the type
    does not have.
    """
    tracker = Tracker(
        schema=schema, api_version=api_version, subresource=subresource, ignored=ignored or {}, convert=convert
    )
    if (applied.get("metadata") or {}).get("managedFields") is not None:
        raise bad_request("metadata.managedFields must be nil")
    _check_version(applied, api_version)
    _check_fields(applied, schema)
    before = zero(schema) if live is None else _without_managed_fields(live)
    managed = decode(entries_of(live)) if live is not None else {}
    if not managed and live is not None:
        managed = _update(tracker, zero(schema), before, managed, BEFORE_FIRST_APPLY, now)
        managed = {owner: replace(owned, time=format_time(now)) for owner, owned in managed.items()}
    try:
        merged, managed = _apply(tracker, before, applied, managed, manager, force)
    except _ConflictError as error:
        if not _allowed_by_last_applied(error, before, manager, schema):
            raise error.status() from None
        merged, managed = _apply(tracker, before, applied, managed, manager, True)
    owner = tracker.owner(manager, "Apply")
    changed = merged != before
    if changed and owner in managed:
        managed[owner] = replace(managed[owner], time=format_time(now))
    if manager == "kubectl":
        merged = _with_last_applied(merged, applied)
    return _result(merged, managed, changed)


def _result(merged: Object, managed: Managed, changed: bool) -> Applied:
    entries = encode(managed)
    metadata = {**(merged.get("metadata") or {})}
    if entries:
        metadata["managedFields"] = entries
    return Applied({**merged, "metadata": metadata}, entries, changed)


def _without_managed_fields(obj: Object) -> Object:
    metadata = obj.get("metadata") or {}
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def _check_version(applied: Object, api_version: str) -> None:
    found = applied.get("apiVersion", "")
    if found != api_version:
        raise bad_request(
            f"Incorrect version specified in apply patch. Specified patch version: {found}, expected: {api_version}"
        )


def _check_fields(applied: Object, schema: TypeSchema) -> None:
    wrong = problems(applied, schema)
    if not wrong:
        return
    text = wrong[0] if len(wrong) == 1 else "\n  ".join(["errors:", *wrong])
    metadata = applied.get("metadata") or {}
    name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
    kind = f"{applied.get('apiVersion', '')}, Kind={applied.get('kind', '')}"
    # The core group shows as an empty one.
    kind = kind if "/" in kind.partition(",")[0] else f"/{kind}"
    raise StatusError(status_of(500, "", f"failed to create typed patch object ({name}; {kind}): {text}"))


class _ConflictError(Exception):
    """Fields of the applied configuration that others own with another value."""

    def __init__(self, taken: Managed) -> None:
        self.taken = taken

    def status(self) -> StatusError:
        found = [(str(owner), path) for owner, owned in self.taken.items() for path in paths(owned.fields)]
        found.sort(key=lambda one: one[0])
        causes = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": path}
            for owner, path in found
        ]
        if len(found) == 1:
            return apply_conflict(f"Apply failed with 1 conflict: conflict with {found[0][0]}: {found[0][1]}", causes)
        lines: list[str] = []
        for owner in dict.fromkeys(owner for owner, _ in found):
            lines.append(f"conflicts with {owner}:")
            lines += [f"- {path}" for whose, path in found if whose == owner]
        return apply_conflict(f"Apply failed with {len(found)} conflicts: " + "\n".join(lines), causes)


def _apply(
    tracker: Tracker, live: Object, applied: Object, managed: Managed, manager: str, force: bool
) -> tuple[Object, Managed]:
    """(the merged object, who owns what then). Raises _ConflictError."""
    schema = tracker.schema
    owner = tracker.owner(manager, "Apply")
    last = managed.get(owner)
    ours = recursive_difference(field_set(applied, schema), tracker.ignored)
    owned = Owned(ours, tracker.api_version, last.time if last is not None else None)
    managed = {**managed, owner: owned}
    merged = merge(live, applied, schema)
    if last is not None and last.fields:
        merged = _prune(tracker, merged, managed, last)
    found = tracker.compare(live, merged)
    managed, taken = _take(tracker, live, merged, found, managed, owner)
    if taken and not force:
        raise _ConflictError(taken)
    stripped = difference(ours, STRIPPED)
    if stripped:
        managed[owner] = owned.with_fields(stripped)
    else:
        managed.pop(owner, None)
    return merged, managed


def _prune(tracker: Tracker, merged: Object, managed: Managed, last: Owned) -> Object:
    """Without the items that the applier had set, sets no more, and nobody else owns."""
    schema = tracker.schema
    if last.api_version != tracker.api_version:
        return _prune_in(tracker, merged, managed, last)
    owned: Node = {}
    for one in managed.values():
        if one.api_version == last.api_version:
            owned = union(owned, one.fields)
    return _prune_by(merged, owned, last.fields, schema)


def _prune_in(tracker: Tracker, merged: Object, managed: Managed, last: Owned) -> Object:
    """The same where the applier last used another version: pruned there, and converted back."""
    converted = tracker.convert(merged, last.api_version) if tracker.convert is not None else None
    if converted is None or tracker.convert is None:
        return merged
    there, schema = converted
    owned: Node = {}
    for one in managed.values():
        if one.api_version == last.api_version:
            owned = union(owned, one.fields)
        else:
            at = tracker.convert(merged, one.api_version)
            owned = union(owned, intersection(one.fields, field_set(there, schema))) if at is not None else owned
    back = tracker.convert(_prune_by(there, owned, last.fields, schema), tracker.api_version)
    return back[0] if back is not None else merged


def _prune_by(merged: Object, owned: Node, last: Node, schema: TypeSchema) -> Object:
    was = with_named_parents(last, schema)
    pruned = remove(merged, was, schema)
    have = with_named_parents(field_set(merged, schema), schema)
    left = with_named_parents(field_set(pruned, schema), schema)
    keep = union(left, with_named_parents(owned, schema))
    # What somebody owns comes back; what nobody had set at all (a default) stays, unless its parent goes.
    pruned = remove(merged, difference(have, keep), schema)
    left = with_named_parents(field_set(pruned, schema), schema)
    return remove(merged, intersection(difference(have, left), was), schema)


def _allowed_by_last_applied(error: _ConflictError, live: Object, manager: str, schema: TypeSchema) -> bool:
    """kubectl may take over what its own client-side apply had set and nobody has changed since.

    Conflicts that are allowed are taken out of the error; True when none is left.
    """
    if manager != "kubectl":
        return False
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        last = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return False
    if not isinstance(last, dict):
        return False
    found = compare(last, live, schema)
    allowed = field_set(last, schema)
    for part in found:
        allowed = difference(allowed, part)
    rest = {owner: owned.with_fields(difference(owned.fields, allowed)) for owner, owned in error.taken.items()}
    error.taken = {owner: owned for owner, owned in rest.items() if owned.fields}
    return not error.taken


def _with_last_applied(merged: Object, applied: Object) -> Object:
    """kubectl's annotation of client-side apply follows its server-side apply, where there is one."""
    metadata: Mapping[str, Any] = merged.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if not annotations.get(LAST_APPLIED):
        return merged
    plain = {**applied, "metadata": {**(applied.get("metadata") or {})}}
    own = plain["metadata"].get("annotations")
    if own is not None:
        plain["metadata"]["annotations"] = {key: value for key, value in own.items() if key != LAST_APPLIED}
    text = orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode() + "\n"
    changed = {**annotations, LAST_APPLIED: text}
    if sum(len(key) + len(str(value)) for key, value in changed.items()) > MAX_ANNOTATIONS_BYTES:
        del changed[LAST_APPLIED]
    return {**merged, "metadata": {**metadata, "annotations": changed}}
