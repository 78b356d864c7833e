"""Cron schedules: five fields or a word."""

from __future__ import annotations

import pytest

from tiphys.apiserver.registry.batch.cron_schedule import schedule_error


@pytest.mark.parametrize(
    "schedule",
    ["* * * * *", "0 */2 1-15 jan,feb mon-fri", "@hourly", "@every 1h30m", "TZ=UTC 5 4 * * sun", "? * * * 6"],
)
def test_valid(schedule: str) -> None:
    assert schedule_error(schedule) == ""


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("x * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("@never", "unrecognized descriptor: @never"),
    ],
)
def test_invalid(schedule: str, message: str) -> None:
    assert schedule_error(schedule) == message
