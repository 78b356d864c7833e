"""Times and durations as the API writes them: RFC 3339 in UTC, and Go's duration text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


@lru_cache(maxsize=1024)
def parse_rfc3339(text: str) -> datetime:
    """An aware time in UTC; digits beyond microseconds are cut. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse')
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    micro = int(fraction[:6].ljust(6, "0")) if fraction else 0
    at = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, UTC)
    if zone in "Zz":
        return at
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
    return at - offset if zone[0] == "+" else at + offset


def format_time(at: datetime) -> str:
    """A Time: `2024-01-01T00:00:00Z`, whole seconds (cut), in UTC."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    return f"{at.isoformat(timespec='seconds')[:19]}Z"


def format_micro_time(at: datetime) -> str:
    """A MicroTime: `2024-01-01T00:00:00.000000Z`, always six digits, in UTC."""
    return f"{format_time(at)[:-1]}.{at.microsecond:06}Z"


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration such as `1h2m3.5s`. Raises ValueError worded as Go words it."""
    rest, sign = text, 1
    if rest[:1] in {"-", "+"}:
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    total, position = 0, 0
    while position < len(rest):
        match = _DURATION.match(rest, position)
        if match is None:
            number = re.match(r"(?:\d+(?:\.\d*)?|\.\d+)([^\d.]*)", rest[position:])
            problem = "invalid duration"
            if number:
                problem = f'unknown unit "{number[1]}" in duration' if number[1] else "missing unit in duration"
            raise ValueError(f'time: {problem} "{text}"')
        number_text, unit = match.groups()
        whole, _, fraction = number_text.partition(".")
        scale = _NANOSECONDS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
        position = match.end()
    if position == 0:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total


def parse_duration(text: str) -> timedelta:
    """A Go duration in microsecond precision. Raises ValueError."""
    return timedelta(microseconds=parse_duration_ns(text) / 1000)


def format_duration(duration: timedelta) -> str:
    """Go's text of a duration: `1h2m3.5s`, `1.5ms`, `0s`."""
    micros = duration // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    if micros == 0:
        return "0s"
    if micros < 1_000:
        return f"{sign}{micros}µs"
    if micros < 1_000_000:
        return f"{sign}{_decimal(micros, 1_000)}ms"
    minutes, rest = divmod(micros, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    out = f"{_decimal(rest, 1_000_000)}s"
    if hours or minutes:
        out = f"{minutes}m{out}"
    return f"{sign}{hours}h{out}" if hours else sign + out


def _decimal(value: int, scale: int) -> str:
    whole, fraction = divmod(value, scale)
    digits = str(fraction).rjust(len(str(scale)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def human_duration(duration: timedelta) -> str:
    """The AGE column: at most two units, coarser with age (`95s`, `5m10s`, `3h`, `2d3h`, `400d`, `2y5d`)."""
    total = int(duration.total_seconds())
    if total < -1:
        return "<invalid>"
    seconds = max(total, 0)
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days, years = seconds // 60, seconds // 3600, seconds // 86400, seconds // 86400 // 365
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"
