"""Cron schedules: five fields, or a word such as `@hourly`.

    minute hour day-of-month month day-of-week       each *, ?, a number, a range a-b, a step /n, or a list of these

The messages are those clients of CronJobs know. https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiphys.machinery.time import parse_duration

MONTHS: Final = {
    name: number + 1
    for number, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"])
}
DAYS: Final = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
# (lowest, highest, names)
FIELDS: Final[Sequence[tuple[int, int, dict[str, int]]]] = (
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, MONTHS),
    (0, 6, DAYS),
)
WORDS: Final = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})


class _ScheduleError(Exception):
    """What is wrong with a schedule."""


def schedule_error(schedule: str) -> str:
    """The first thing wrong with a schedule; empty when nothing is."""
    text = schedule
    if text.startswith(("TZ=", "CRON_TZ=")):
        text = text.partition(" ")[2].strip()
    try:
        if text.startswith("@"):
            _check_word(text)
        else:
            _check_fields(text)
    except _ScheduleError as error:
        return str(error)
    return ""


def _check_word(text: str) -> None:
    if text in WORDS:
        return
    if text.startswith("@every "):
        duration = text.removeprefix("@every ")
        try:
            parse_duration(duration)
        except ValueError as error:
            raise _ScheduleError(f"failed to parse duration {text}: {error}") from None
        return
    raise _ScheduleError(f"unrecognized descriptor: {text}")


def _check_fields(text: str) -> None:
    fields = text.split()
    if len(fields) != len(FIELDS):
        shown = " ".join(fields)
        raise _ScheduleError(f"expected exactly {len(FIELDS)} fields, found {len(fields)}: [{shown}]")
    for value, (low, high, names) in zip(fields, FIELDS, strict=True):
        for part in value.split(","):
            _check_part(part, low, high, names)


def _check_part(part: str, low: int, high: int, names: dict[str, int]) -> None:
    body, *steps = part.split("/")
    bounds = body.split("-")
    if bounds[0] in ("*", "?"):
        start, end = low, high
    else:
        start = _number(bounds[0], names)
        if len(bounds) == 1:
            end = high if steps else start
        elif len(bounds) == 2:
            end = _number(bounds[1], names)
        else:
            raise _ScheduleError(f"too many hyphens: {part}")
    if len(steps) > 1:
        raise _ScheduleError(f"too many slashes: {part}")
    step = _number(steps[0], {}) if steps else 1
    if start < low:
        raise _ScheduleError(f"beginning of range ({start}) below minimum ({low}): {part}")
    if end > high:
        raise _ScheduleError(f"end of range ({end}) above maximum ({high}): {part}")
    if start > end:
        raise _ScheduleError(f"beginning of range ({start}) beyond end of range ({end}): {part}")
    if step == 0:
        raise _ScheduleError(f"step of range should be a positive number: {part}")


def _number(text: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    try:
        number = int(text)
    except ValueError:
        detail = f'strconv.Atoi: parsing "{text}": invalid syntax'
        raise _ScheduleError(f"failed to parse int from {text}: {detail}") from None
    if number < 0:
        raise _ScheduleError(f"negative number ({number}) not allowed: {text}")
    return number
