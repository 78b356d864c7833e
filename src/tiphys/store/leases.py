"""When leases end. Which keys hang on a lease is the engine's business; this keeps their time.

Deadlines live in memory: a store that starts again gives each lease its full time, as a new etcd leader does,
because nobody could keep it alive meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.store.errors import LeaseNotFound, StoreError
from tiphys.store.interface import Lease

log = get_logger(__name__)

RETRY = 1.0  # seconds until an expiry that failed (a full disk, say) is tried again


class Lessor:
    """Deadlines of leases, and the loop that revokes those that have passed."""

    def __init__(self, clock: Clock, revoke: Callable[[int], Awaitable[None]]) -> None:
        self._clock = clock
        self._revoke = revoke
        self._ttls: dict[int, int] = {}
        self._deadlines: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # may hold outdated deadlines; `_deadlines` decides
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ttls)

    def ttls(self) -> dict[int, int]:
        """The granted ttl of every lease, in seconds."""
        return dict(self._ttls)

    def load(self, leases: Iterable[tuple[int, int]]) -> None:
        """Start the time of (id, ttl) pairs."""
        for lease, ttl in leases:
            self._ttls[lease] = ttl
            self.keep_alive(lease)

    def keep_alive(self, lease: int) -> Lease:
        """Start a lease's time again. Raises LeaseNotFound."""
        ttl = self._ttls.get(lease)
        if ttl is None:
            raise LeaseNotFound(lease)
        deadline = self._clock.monotonic() + ttl
        self._deadlines[lease] = deadline
        heapq.heappush(self._heap, (deadline, lease))
        if self._heap[0][1] == lease:
            self._changed.set()
        return Lease(lease, ttl, ttl)

    def forget(self, lease: int) -> None:
        self._ttls.pop(lease, None)
        self._deadlines.pop(lease, None)

    async def run(self) -> None:
        """Revoke leases as they expire, until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            while self._heap and self._heap[0][0] <= now:
                deadline, lease = heapq.heappop(self._heap)
                if self._deadlines.get(lease) == deadline:
                    await self._expire(lease)
            await self._wait(self._heap[0][0] - now if self._heap else None)

    async def _expire(self, lease: int) -> None:
        try:
            await self._revoke(lease)
        except LeaseNotFound:
            self.forget(lease)
        except StoreError as error:
            log.warning("lease %d expired but its keys could not be deleted: %s", lease, error)
            deadline = self._clock.monotonic() + RETRY
            self._deadlines[lease] = deadline
            heapq.heappush(self._heap, (deadline, lease))

    async def _wait(self, seconds: float | None) -> None:
        """Until `seconds` have passed or an earlier deadline was set."""
        if seconds is None:
            await self._changed.wait()
            return
        changed = asyncio.ensure_future(self._changed.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((changed, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (changed, sleeping):
                task.cancel()
            await asyncio.gather(changed, sleeping, return_exceptions=True)
