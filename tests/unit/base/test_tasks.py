"""Supervised scopes: what fails is seen, what ends is cancelled."""

import asyncio

import pytest

from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised


async def test_leaving_the_scope_cancels_and_awaits_its_tasks() -> None:
    cleaned = False

    async def forever() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    async with Supervised() as tasks:
        tasks.spawn(forever, name="forever")
        await asyncio.sleep(0)
    assert cleaned


async def test_a_failure_ends_the_scope_with_its_error() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        async with Supervised() as tasks:
            tasks.spawn(fails, name="fails")
            await asyncio.Event().wait()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_restarted_task_backs_off_and_comes_back() -> None:
    clock = FakeClock()
    runs: list[float] = []

    async def fails_twice() -> None:
        runs.append(round(clock.monotonic(), 3))
        if len(runs) < 3:
            raise OSError("not yet")

    async with Supervised(clock) as tasks:
        tasks.spawn(fails_twice, name="flaky", restart=True)
        await clock.advance(1)
        await tasks.wait()
    assert runs == [0.0, 0.1, 0.3]


async def test_nothing_starts_in_an_ended_scope() -> None:
    async def nothing() -> None:
        return None

    async with Supervised() as tasks:
        pass
    with pytest.raises(RuntimeError, match="has ended"):
        tasks.spawn(nothing, name="late")
