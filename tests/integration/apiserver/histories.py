"""Judges a recorded history: is it one that a single, unlosing server could have given?

Every version of an object has a revision that orders it among all others, and every value is written once. So a history
over one key is linearizable exactly if there is no contradiction between the order of revisions and real time:

    truth     r5:a ── r7:b ── r9:c          what etcd had, one version after the other
    write b   |-----ok r7----|
    read                        |--r5:a--|  stale: r7 was acknowledged before this read began
    write c                     |--?--|     unknown: may be there or not, and was not there before it began

Each key is a register of its own; registers that are linearizable one by one are so together
(Herlihy and Wing, Linearizability, 1990: locality).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise


class Outcome(Enum):
    OK = "acknowledged"
    REFUSED = "refused"  # surely not applied: somebody else's version was there
    UNKNOWN = "unknown"  # no answer, or one that does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a client did and was told. `revision` is what it wrote or saw, 0 if it does not know."""

    key: str
    writes: bool
    value: str  # written or seen
    start: float  # seconds, of one clock for all
    end: float
    outcome: Outcome
    revision: int = 0
    expect: int = 0  # the version a write was to replace; 0: whichever


@dataclass(frozen=True, slots=True)
class Version:
    revision: int
    value: str


def violations(operations: Sequence[Operation], truth: Sequence[Version]) -> list[str]:
    """What in the history of one key cannot be; `truth` are its versions, oldest first."""
    return [
        *_lost_or_doubled(operations, truth),
        *_replaced_something_else(operations, truth),
        *_out_of_time(operations, truth),
        *_refused_without_reason(operations, truth),
    ]


def _lost_or_doubled(operations: Sequence[Operation], truth: Sequence[Version]) -> Iterator[str]:
    by_revision = {version.revision: version.value for version in truth}
    times: dict[str, int] = {}
    for version in truth:
        times[version.value] = times.get(version.value, 0) + 1
    yield from (f"{value} was written {count} times" for value, count in times.items() if count > 1)
    for one in operations:
        if one.outcome is Outcome.OK and by_revision.get(one.revision) != one.value:
            what = "acknowledged" if one.writes else "read"
            yield f"{one.value} was {what} at {one.revision}, where {by_revision.get(one.revision, 'nothing')} is"
        if one.outcome is Outcome.REFUSED and one.value in times:
            yield f"{one.value} was refused, and is there"


def _replaced_something_else(operations: Sequence[Operation], truth: Sequence[Version]) -> Iterator[str]:
    before = {version.revision: older.revision for older, version in pairwise(truth)}
    for one in operations:
        if one.writes and one.expect and one.outcome is Outcome.OK and before.get(one.revision) != one.expect:
            yield f"{one.value} was to replace {one.expect} and replaced {before.get(one.revision)}"


def _out_of_time(operations: Sequence[Operation], truth: Sequence[Version]) -> Iterator[str]:
    known = [one for one in operations if one.outcome is Outcome.OK]
    begun = {one.value: one.start for one in operations if one.writes}
    ending = sorted(known, key=lambda one: one.end)
    newest, position = 0, 0
    for one in sorted(known, key=lambda one: one.start):
        while position < len(ending) and ending[position].end < one.start:
            newest = max(newest, ending[position].revision)
            position += 1
        if one.revision < newest or (one.writes and one.revision == newest):
            what = "written" if one.writes else "read: stale"
            yield f"{newest} was known when {one.revision} ({one.value}) was {what}"
        if begun.get(one.value, one.start) > one.end:
            yield f"{one.value} was seen before it was written"
    yield from _late_before_early(operations, truth)


def _late_before_early(operations: Sequence[Operation], truth: Sequence[Version]) -> Iterator[str]:
    """A write that began after another was acknowledged cannot have a smaller revision, answered or not."""
    writes = {one.value: one for one in operations if one.writes}
    earliest_end = float("inf")
    for version in reversed(truth):
        one = writes.get(version.value)
        if one is None:
            continue
        if one.start > earliest_end:
            yield f"{one.value} began after a later version was acknowledged"
        if one.outcome is Outcome.OK:
            earliest_end = min(earliest_end, one.end)


def _refused_without_reason(operations: Sequence[Operation], truth: Sequence[Version]) -> Iterator[str]:
    begun = {one.value: one.start for one in operations if one.writes}
    after = {older.revision: version for older, version in pairwise(truth)}
    for one in operations:
        if one.outcome is Outcome.REFUSED and one.expect:
            following = after.get(one.expect)
            if following is None or begun.get(following.value, 0.0) > one.end:
                yield f"{one.value} was refused although {one.expect} was the newest"
