"""Cron schedules: five fields, names, lists, ranges, steps, and the @ forms. Pure.

    minute hour day-of-month month day-of-week       */15 9-17 * * mon-fri

When both days are restricted, a day that fits either counts.
https://en.wikipedia.org/wiki/Cron
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final

from tiphys.machinery.time import parse_duration

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_DAYS: Final = {name: number for number, name in enumerate(_DAY_NAMES)}
_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# A schedule such as "0 0 30 2 *" has no time at all; the search gives up after this.
_SEARCH: Final = timedelta(days=366 * 5)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of a schedule in one time zone."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Sunday is 0
    any_day: bool  # the day of the month is "*"
    any_weekday: bool
    zone: tzinfo
    every: timedelta | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first time later than `moment`, in whole seconds; None when there is none in five years."""
        if self.every is not None:
            return moment.replace(microsecond=0) + self.every
        local = moment.astimezone(self.zone).replace(second=0, microsecond=0, tzinfo=None) + timedelta(minutes=1)
        end = local + _SEARCH
        while local < end:
            if local.month not in self.months or not self._fits_day(local):
                local = (local + timedelta(days=1)).replace(hour=0, minute=0)
            elif local.hour not in self.hours:
                local = (local + timedelta(hours=1)).replace(minute=0)
            elif local.minute not in self.minutes:
                local += timedelta(minutes=1)
            else:
                found = local.replace(tzinfo=self.zone).astimezone(moment.tzinfo)
                # A wall time that the change to summer time leaves out comes back as another one.
                if found > moment and found.astimezone(self.zone).replace(tzinfo=None) == local:
                    return found
                local += timedelta(minutes=1)
        return None

    def _fits_day(self, local: datetime) -> bool:
        day = local.day in self.days
        weekday = local.isoweekday() % 7 in self.weekdays
        return day and weekday if self.any_day or self.any_weekday else day or weekday


def parse_schedule(text: str, zone: tzinfo) -> Schedule:
    """Read a schedule. Raises ValueError saying what is wrong."""
    text = text.strip()
    if text.startswith("@every "):
        every = parse_duration(text.removeprefix("@every ").strip())
        none: frozenset[int] = frozenset()
        return Schedule(none, none, none, none, none, True, True, zone, max(every, timedelta(seconds=1)))
    fields = _MACROS.get(text, text).split()
    if len(fields) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: {text}")
    minute, hour, day, month, weekday = fields
    return Schedule(
        minutes=_field(minute, 0, 59, {}),
        hours=_field(hour, 0, 23, {}),
        days=_field(day, 1, 31, {}),
        months=_field(month, 1, 12, _MONTHS),
        weekdays=frozenset(number % 7 for number in _field(weekday, 0, 7, _DAYS)),
        any_day=day[0] in "*?",
        any_weekday=weekday[0] in "*?",
        zone=zone,
    )


def _field(text: str, low: int, high: int, names: dict[str, int]) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text, {}) if slash else 1
        if step <= 0:
            raise ValueError(f"step of range should be a positive number: {part}")
        if span in ("*", "?"):
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = _number(start, names)
            last = _number(end, names) if dash else (high if slash else first)
        if first < low:
            raise ValueError(f"beginning of range ({first}) below minimum ({low}): {part}")
        if last > high:
            raise ValueError(f"end of range ({last}) above maximum ({high}): {part}")
        if first > last:
            raise ValueError(f"beginning of range ({first}) beyond end of range ({last}): {part}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, names: dict[str, int]) -> int:
    known = names.get(text.lower())
    if known is not None:
        return known
    if not text.isdigit():
        raise ValueError(f"failed to parse int from {text}")
    return int(text)


def due(schedule: Schedule, since: datetime, now: datetime, deadline: timedelta | None) -> tuple[datetime | None, int]:
    """(the latest time after `since` that is not in the future, how many there were).

    Times further back than `deadline` do not count. Counting stops a little after a hundred, which is "too many".
    """
    if deadline is not None:
        since = max(since, now - deadline)
    latest: datetime | None = None
    count = 0
    moment = schedule.after(since)
    while moment is not None and moment <= now:
        latest = moment
        count += 1
        if count > 100:
            # Go on from just before now: only the last one matters.
            step = schedule.after(now - (now - moment) / 100) if now - moment > timedelta(hours=2) else None
            moment = step if step is not None and step <= now else schedule.after(moment)
        else:
            moment = schedule.after(moment)
    return latest, count
