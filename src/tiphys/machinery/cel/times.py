"""Timestamps and durations: aware datetimes and timedeltas, in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.values import no_overload
from tiphys.machinery.time import parse_duration, parse_rfc3339

_SECOND: Final = timedelta(seconds=1)


def timestamp(value: Any) -> datetime:
    """`timestamp(value)`."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            raise EvalError("timestamp overflow") from None
    if not isinstance(value, str):
        raise no_overload()
    try:
        found = parse_rfc3339(value)
    except ValueError as error:
        raise EvalError(str(error)) from None
    return found if value[-1:] in "zZ" else found.astimezone(_zone(value[-6:]))


def duration(value: Any) -> timedelta:
    """`duration(value)`."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise no_overload()
    try:
        return parse_duration(value)
    except (ValueError, OverflowError) as error:
        raise EvalError(str(error)) from None


def timestamp_text(value: datetime) -> str:
    """RFC 3339, with no more digits than are needed."""
    text = value.strftime("%Y-%m-%dT%H:%M:%S")
    zone = value.strftime("%z") if value.utcoffset() else ""
    shown = f"{zone[:3]}:{zone[3:5]}" if zone else "Z"
    return (f"{text}.{value.microsecond:06}".rstrip("0") if value.microsecond else text) + shown


def duration_text(value: timedelta) -> str:
    """Seconds: `90s`, `1.5s`."""
    micros = value // timedelta(microseconds=1)
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    whole, fraction = divmod(micros, 1_000_000)
    return f"{sign}{whole}" + (f".{fraction:06}".rstrip("0") if fraction else "") + "s"


def add(a: Any, b: Any) -> Any:
    """timestamp + duration, duration + duration."""
    if isinstance(a, datetime) and isinstance(b, datetime):
        raise no_overload()
    try:
        return a + b
    except OverflowError:
        raise EvalError("timestamp overflow") from None


def subtract(a: Any, b: Any) -> Any:
    """timestamp - timestamp, timestamp - duration, duration - duration."""
    if isinstance(a, timedelta) and isinstance(b, datetime):
        raise no_overload()
    try:
        return a - b
    except OverflowError:
        raise EvalError("timestamp overflow") from None


def _zone(name: str | None) -> tzinfo:
    if not name:
        return UTC
    if name[0] in "+-" or name[0].isdigit():
        sign = -1 if name[0] == "-" else 1
        hours, _, minutes = name.lstrip("+-").partition(":")
        return timezone(sign * timedelta(hours=int(hours), minutes=int(minutes or 0)))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise EvalError(f"unknown time zone {name}") from None


def _part(of_time: Callable[[datetime], int], of_duration: Callable[[timedelta], int] | None = None) -> Any:
    def method(value: Any, zone: str | None = None) -> int:
        if isinstance(value, timedelta) and of_duration is not None:
            return of_duration(value)
        if not isinstance(value, datetime):
            raise no_overload()
        return of_time(value.astimezone(_zone(zone)))

    return method


def _truncated(value: timedelta, unit: timedelta) -> int:
    return int(value / unit)


METHODS: Final[dict[str, Callable[..., Any]]] = {
    "getFullYear": _part(lambda at: at.year),
    "getMonth": _part(lambda at: at.month - 1),
    "getDayOfYear": _part(lambda at: at.timetuple().tm_yday - 1),
    "getDayOfMonth": _part(lambda at: at.day - 1),
    "getDate": _part(lambda at: at.day),
    "getDayOfWeek": _part(lambda at: at.isoweekday() % 7),
    "getHours": _part(lambda at: at.hour, lambda value: _truncated(value, timedelta(hours=1))),
    "getMinutes": _part(lambda at: at.minute, lambda value: _truncated(value, timedelta(minutes=1))),
    "getSeconds": _part(lambda at: at.second, lambda value: _truncated(value, _SECOND)),
    "getMilliseconds": _part(
        lambda at: at.microsecond // 1000, lambda value: value % _SECOND // timedelta(milliseconds=1)
    ),
}
