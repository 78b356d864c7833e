"""Virtual time: sleepers wake in order, each at its own moment."""

import asyncio

from tiphys.base.clock import FakeClock


async def test_sleepers_wake_in_order_at_their_moment() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 2, 2))
        group.create_task(sleeper("b", 3))
        await clock.advance(10)
    assert woken == [("a", 2.0), ("b", 3.0), ("a", 4.0)]
