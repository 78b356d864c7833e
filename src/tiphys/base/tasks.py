"""Supervised tasks: whoever starts one awaits it, cancels it, and sees its error.

`Supervised` is a scope. Tasks started in it end with it; one that fails is logged and, where it
was started with `restart=True`, started again with back-off. A failure of any other task ends
the scope with that error, as in `asyncio.TaskGroup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger

log = get_logger(__name__)

FIRST_BACKOFF: Final = 0.1  # seconds
LONGEST_BACKOFF: Final = 10.0
# A task that has run this long was healthy: its next failure starts from the first back-off again.
HEALTHY_AFTER: Final = 30.0


class Supervised:
    """A scope of tasks. Use it as `async with Supervised() as tasks:`; leaving it cancels what still runs."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._owner: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.gather(*list(self._tasks), return_exceptions=True)
            # A task may have started another while it was being cancelled.
            for task in list(self._tasks):
                task.cancel()
        if self._error is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            if self._owner is not None:
                self._owner.uncancel()
            raise self._error

    def spawn(
        self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str, restart: bool = False
    ) -> asyncio.Task[None]:
        """Start `work()` as a task of this scope.

        With `restart` a failure is logged and the work begins again after a back-off that doubles
        to ten seconds; without, a failure ends the scope. Returning normally ends the task in both.
        """
        if self._closing:
            raise RuntimeError(f"the scope has ended; {name} cannot be started in it")
        runner = self._run_again(work, name) if restart else work()
        task = asyncio.get_running_loop().create_task(runner, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def wait(self) -> None:
        """Wait until every task of the scope has ended."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self._closing:
            return
        error = task.exception()
        if error is not None and self._error is None:
            self._error = error
            log.error("task %s failed: %r", task.get_name(), error)
            if self._owner is not None and not self._owner.done():
                self._owner.cancel()

    async def _run_again(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = self._clock.monotonic()
            try:
                await work()
                return
            except asyncio.CancelledError:
                raise
            except Exception:
                if self._clock.monotonic() - started > HEALTHY_AFTER:
                    backoff = FIRST_BACKOFF
                log.exception("task %s failed; starting it again in %.1f s", name, backoff)
                await self._clock.sleep(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
