"""Deadlines: late work is cancelled, everything else is left alone."""

from __future__ import annotations

import asyncio

import pytest

from tiphys.apiserver.endpoints import deadlines
from tiphys.apiserver.endpoints.deadlines import Deadlines


async def _answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_the_result_is_passed_on() -> None:
    assert await Deadlines(60.0).within(_answer(3)) == 3


async def test_late_work_ends_in_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "EVERY", 0.001)
    limits = Deadlines(0.0)
    with pytest.raises(TimeoutError):
        await limits.within(_forever())
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert await limits.within(_answer(4)) == 4


async def test_a_cancellation_from_outside_stays_one() -> None:
    task = asyncio.ensure_future(Deadlines(60.0).within(_forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_is_passed_on() -> None:
    async def fail() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await Deadlines(60.0).within(fail())
