"""The promises of the work queue."""

from __future__ import annotations

import asyncio

from tiphys.base.clock import FakeClock
from tiphys.base.tasks import Supervised
from tiphys.client import WorkQueue


async def test_a_key_added_twice_is_given_out_once() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    for key in ("a", "b", "a"):
        queue.add(key)
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_in_work_comes_again_only_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    queue.add("a")
    await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await queue.get() == "a"


async def test_a_cancelled_worker_passes_its_key_on() -> None:
    queue: WorkQueue[str] = WorkQueue(FakeClock())
    async with Supervised() as tasks:
        got: list[str] = []

        async def work() -> None:
            got.append(await queue.get())

        first = tasks.spawn(work, name="first")
        tasks.spawn(work, name="second")
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
        await asyncio.sleep(0.01)
    assert got == ["a"]


async def test_delayed_keys_come_when_due_the_earliest_delay_counts() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    async with Supervised(clock) as tasks:
        tasks.spawn(queue.run, name="delays")
        queue.add_after("a", 10)
        queue.add_after("b", 5)
        queue.add_after("a", 1)
        await clock.advance(0.9)
        assert len(queue) == 0
        await clock.advance(0.2)
        assert await queue.get() == "a"
        queue.done("a")
        await clock.advance(4)
        assert await queue.get() == "b"
        queue.done("b")
        await clock.advance(20)
        assert len(queue) == 0


async def test_failures_double_the_delay_and_success_resets_it() -> None:
    clock = FakeClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    async with Supervised(clock) as tasks:
        tasks.spawn(queue.run, name="delays")
        for delay in (0.005, 0.01, 0.02):
            queue.add_rate_limited("a")
            await clock.advance(delay * 0.9)
            assert len(queue) == 0
            await clock.advance(delay * 0.2)
            assert await queue.get() == "a"
            queue.done("a")
        assert queue.failures("a") == 3
        queue.forget("a")
        assert queue.failures("a") == 0
