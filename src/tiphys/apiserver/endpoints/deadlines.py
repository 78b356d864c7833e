"""The time limit that nearly every request has, at the cost of an entry in a dict.

    begin ──▶ _running (in the order of their beginning) ──▶ end
                 └── looked at once a second while there is any: who is late is cancelled, and answered with 504

A timer of its own for each request costs more than reading the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

T = TypeVar("T")
EVERY: Final = 1.0  # seconds: a request may last so much longer than its limit


class _Guard:
    __slots__ = ("cancelling", "expired", "task", "until")

    def __init__(self, task: asyncio.Task[Any], until: float) -> None:
        self.task = task
        self.until = until  # of the loop's clock
        self.cancelling = task.cancelling()
        self.expired = False


class Deadlines:
    """Requests under one limit, in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._running: dict[_Guard, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, work: Awaitable[T]) -> T:
        """The result of `work`; TimeoutError when it took longer than the limit, and was cancelled."""
        task = asyncio.current_task()
        assert task is not None, "outside of a task"
        loop = asyncio.get_running_loop()
        guard = _Guard(task, loop.time() + self._limit)
        self._running[guard] = None
        if self._timer is None:
            self._timer = loop.call_later(EVERY, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if guard.expired and task.uncancel() <= guard.cancelling:
                raise TimeoutError from None
            raise
        finally:
            self._running.pop(guard, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = []
        for guard in self._running:
            if guard.until > now:
                break  # whoever began later has more time
            late.append(guard)
        for guard in late:
            del self._running[guard]
            guard.expired = True
            guard.task.cancel()
        self._timer = loop.call_later(EVERY, self._look) if self._running else None
