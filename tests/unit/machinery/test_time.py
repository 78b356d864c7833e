"""Times, durations and ages as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.machinery.time import (
    format_duration,
    format_micro_time,
    format_time,
    human_duration,
    parse_duration,
    parse_rfc3339,
)

AT = datetime(2024, 1, 2, 3, 4, 5, 678901, UTC)


def test_a_time_is_cut_to_seconds_and_a_micro_time_has_six_digits() -> None:
    assert format_time(AT) == "2024-01-02T03:04:05Z"
    assert format_micro_time(AT) == "2024-01-02T03:04:05.678901Z"
    assert format_micro_time(AT.replace(microsecond=0)) == "2024-01-02T03:04:05.000000Z"


@pytest.mark.parametrize(
    "text",
    ["2024-01-02T03:04:05.678901Z", "2024-01-02T05:04:05.678901+02:00", "2024-01-01T22:04:05.6789019-05:00"],
)
def test_any_zone_is_read_as_utc(text: str) -> None:
    assert parse_rfc3339(text) == AT


@pytest.mark.parametrize("text", ["", "2024-01-02", "2024-01-02T03:04:05", "2024-13-02T03:04:05Z"])
def test_bad_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339(text)


@given(st.datetimes(timezones=st.just(timezone(timedelta(hours=3)))).filter(lambda at: 1 < at.year < 9999))
def test_micro_times_read_back(at: datetime) -> None:
    assert parse_rfc3339(format_micro_time(at)) == at


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0", timedelta(0)),
        ("1h2m3s", timedelta(hours=1, minutes=2, seconds=3)),
        ("1.5h", timedelta(minutes=90)),
        ("-10s", timedelta(seconds=-10)),
        ("250ms", timedelta(milliseconds=250)),
        ("5us", timedelta(microseconds=5)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "invalid duration"),
        ("5", "missing unit in duration"),
        ("5x", 'unknown unit "x" in duration'),
        ("x5", "invalid duration"),
    ],
)
def test_bad_durations(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f'time: {problem} "{text}"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.0015, "1.5ms"), (90, "1m30s"), (3600, "1h0m0s"), (-1.5, "-1.5s")]
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


@given(st.timedeltas(timedelta(-365), timedelta(365)))
def test_durations_read_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (119, "119s"),
        (120, "2m"),
        (130, "2m10s"),
        (660, "11m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600, "9h"),
        (50 * 3600, "2d2h"),
        (400 * 86400, "400d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages(seconds: int, age: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == age
