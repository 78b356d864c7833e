"""The judge of histories finds what it is there for."""

from __future__ import annotations

import pytest

from tests.integration.apiserver.histories import Operation, Outcome, Version, violations

TRUTH = [Version(5, "a"), Version(7, "b"), Version(9, "c")]


def write(
    value: str, start: float, end: float, revision: int = 0, *, expect: int = 0, refused: bool = False
) -> Operation:
    outcome = Outcome.REFUSED if refused else Outcome.OK if revision else Outcome.UNKNOWN
    return Operation(
        key="k", writes=True, value=value, start=start, end=end, outcome=outcome, revision=revision, expect=expect
    )


def read(value: str, start: float, end: float, revision: int) -> Operation:
    return Operation(key="k", writes=False, value=value, start=start, end=end, outcome=Outcome.OK, revision=revision)


SOUND = [write("a", 0, 1, 5), write("b", 1, 4, 7, expect=5), read("a", 2, 3, 5), write("c", 5, 6), read("c", 7, 8, 9)]


def test_a_sound_history_has_no_violations() -> None:
    assert violations(SOUND, TRUTH) == []


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (read("a", 4.5, 4.6, 5), "stale"),
        (read("c", 4.1, 4.2, 9), "seen before it was written"),
        (write("d", 9, 10, 11), "acknowledged at 11"),
        (read("x", 9, 10, 9), "read at 9"),
        (write("c", 5, 6, 9, expect=5), "was to replace 5 and replaced 7"),
        (write("b", 8, 9, refused=True), "refused, and is there"),
        (write("d", 9, 10, expect=9, refused=True), "although 9 was the newest"),
    ],
    ids=["stale", "early", "lost", "other-value", "other-version", "applied-though-refused", "refused-for-nothing"],
)
def test_each_violation_is_found(operation: Operation, said: str) -> None:
    assert any(said in found for found in violations([*SOUND, operation], TRUTH))


def test_a_doubled_write_is_found() -> None:
    assert "b was written 2 times" in violations(SOUND, [*TRUTH, Version(12, "b")])


def test_a_late_write_before_an_early_one_is_found() -> None:
    found = violations([write("a", 0, 1, 5), write("b", 2, 3, 7), write("c", 0, 1, 9)], TRUTH)
    assert any("began after a later version" in one for one in found)
