"""Waiting for whichever comes first, in the clock's time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from tiphys.base.clock import Clock

T = TypeVar("T")


async def wait_event(event: asyncio.Event, clock: Clock, seconds: float | None) -> bool:
    """Wait until `event` is set or `seconds` have passed (None: however long it takes); True when it is set."""
    if event.is_set() or seconds is None:
        await event.wait()
        return True
    waiter = asyncio.ensure_future(event.wait())
    timer = asyncio.ensure_future(clock.sleep(seconds))
    await _first_of(waiter, timer)
    return event.is_set()


async def within(work: Awaitable[T], clock: Clock, seconds: float) -> T:
    """The result of `work`; when it takes longer than `seconds` it is cancelled and TimeoutError raised."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    await _first_of(task, timer)
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def unless(event: asyncio.Event, work: Awaitable[T]) -> T:
    """The result of `work`; when `event` is set before, `work` is cancelled and InterruptedError raised."""
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    await _first_of(task, waiter)
    if task.cancelled():
        raise InterruptedError
    return task.result()


async def _first_of(*tasks: asyncio.Future[Any]) -> None:
    """Wait for the first and cancel the others; all have ended when this returns, also when it is cancelled."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
