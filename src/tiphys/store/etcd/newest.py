"""The newest revision, asked once for all who want to know at the same time.

    callers   a      b c d            e
    reads     [a....][b c d........]  [e....]

An answer counts only for who asked before the read began: the read itself is what makes it current.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SharedRead:
    """Calls `read`, one at a time, for everybody who waits when it begins."""

    def __init__(self, read: Callable[[], Awaitable[int]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._next: asyncio.Future[int] | None = None

    async def get(self) -> int:
        """The result of a read that began after this call. Raises what the read raises."""
        while True:
            turn = self._next
            if turn is None:
                return await self._lead()
            try:
                return await asyncio.shield(turn)
            except asyncio.CancelledError:
                if not turn.cancelled():
                    raise  # it is this caller who was cancelled, not the one who led

    async def _lead(self) -> int:
        turn = self._next = asyncio.get_running_loop().create_future()
        try:
            async with self._lock:
                self._next = None
                result = await self._read()
            turn.set_result(result)
            return result
        except Exception as error:
            turn.set_exception(error)
            turn.exception()  # nobody need have waited
            raise
        finally:
            if not turn.done():
                turn.cancel()
                if self._next is turn:
                    self._next = None
