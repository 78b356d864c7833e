"""The conditions of a namespace that is being deleted: what is left and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import NamespaceCondition
from tiphys.controllers.namespace.content import Left

DISCOVERY: Final = "NamespaceDeletionDiscoveryFailure"
PARSING: Final = "NamespaceDeletionGroupVersionParsingFailure"
DELETION: Final = "NamespaceDeletionContentFailure"
REMAINING: Final = "NamespaceContentRemaining"
FINALIZERS: Final = "NamespaceFinalizersRemaining"

# (reason, message) while nothing is wrong.
_FINE: Final = {
    DISCOVERY: ("ResourcesDiscovered", "All resources successfully discovered"),
    PARSING: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
    DELETION: ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    REMAINING: ("ContentRemoved", "All content successfully removed"),
    FINALIZERS: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
}


def conditions_of(left: Left, failed: Mapping[str, str]) -> dict[str, tuple[str, str, str]]:
    """(status, reason, message) of every condition."""
    found = {type_: ("False", reason, message) for type_, (reason, message) in _FINE.items()}
    if failed:
        what = ", ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
        why = f"unable to retrieve the complete list of server APIs: {what}"
        message = f"Discovery failed for some groups, {len(failed)} failing: {why}"
        found[DISCOVERY] = ("True", "DiscoveryFailed", message)
    if left.errors:
        what = ", ".join(sorted(left.errors))
        message = f"Failed to delete all resource types, {len(left.errors)} remaining: {what}"
        found[DELETION] = ("True", "ContentDeletionFailed", message)
    if left.counts:
        what = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(left.counts.items()))
        found[REMAINING] = ("True", "SomeResourcesRemain", f"Some resources are remaining: {what}")
    if left.finalizers:
        what = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(left.finalizers.items()))
        message = f"Some content in the namespace has finalizers remaining: {what}"
        found[FINALIZERS] = ("True", "SomeFinalizersRemain", message)
    return found


def merged(
    current: Sequence[NamespaceCondition], wanted: Mapping[str, tuple[str, str, str]], now: datetime
) -> tuple[NamespaceCondition, ...]:
    """`current` brought to `wanted`; a condition that does not change keeps its time."""
    result = {condition.type: condition for condition in current}
    for type_, (status, reason, message) in wanted.items():
        known = result.get(type_)
        if known is None:
            result[type_] = NamespaceCondition(
                type=type_,
                status=status,
                reason=reason,
                message=message,
                last_transition_time=now.replace(microsecond=0),
            )
        elif (known.status, known.reason, known.message) != (status, reason, message):
            since = known.last_transition_time if known.status == status else now.replace(microsecond=0)
            result[type_] = replace(known, status=status, reason=reason, message=message, last_transition_time=since)
    return tuple(result.values())
