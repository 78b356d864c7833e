"""Waiting for something or for a moment of a clock, whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from tiphys.base.clock import Clock


async def wait_until(event: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait for `event`, at most `seconds` of `clock`; True when the event is set."""
    if event.is_set():
        return True
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sleeper, waiter):
            task.cancel()
        await asyncio.gather(sleeper, waiter, return_exceptions=True)
    return event.is_set()


async def wait_at_most(work: Awaitable[object], clock: Clock, seconds: float) -> bool:
    """Wait for `work`, at most `seconds` of `clock`: whether it is done; else it was cancelled. Raises its error."""
    task = asyncio.ensure_future(work)
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, sleeper}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, sleeper, return_exceptions=True)
    if task.cancelled():
        return False
    task.result()
    return True
