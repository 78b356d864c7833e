"""What keeps the store from growing for ever: old revisions are compacted, events expire.

Compaction: what was the current revision five minutes ago becomes the oldest that can be read. A watcher or a paged
list that is further behind gets 410 and starts over, as with upstream (`--etcd-compaction-interval`). Servers that
share a store agree on who compacts by a key of upstream's name, so that they keep each other's histories whole:

    compact_rev_key   version n ─ who makes it n+1 first compacts at the revision it saw last; the others wait a turn

Events live under leases (`--event-ttl`). Those written within a minute share one: a burst of them costs one lease.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.store import CompactedError, Compare, CompareTarget, Get, LeaseNotFound, Put, Store, StoreError

log = get_logger(__name__)

COMPACTION_INTERVAL: Final = timedelta(minutes=5)
LEASE_SHARED_FOR: Final = 60.0  # seconds
TURN_KEY: Final = "compact_rev_key"


class Compactor:
    """Compacts the store at an interval; `run` until cancelled."""

    def __init__(self, store: Store, clock: Clock, interval: timedelta = COMPACTION_INTERVAL) -> None:
        self._store = store
        self._clock = clock
        self._interval = interval.total_seconds()
        self._turn = 0  # version of the key

    async def run(self) -> None:
        """Each turn forgets what the turn before saw as current."""
        then = 0
        while True:
            try:
                then = await self._compact(then)
            except CompactedError:
                pass  # another server of the cluster was faster
            except StoreError as error:
                log.warning("compaction at revision %d failed: %s", then, error)
            await self._clock.sleep(self._interval)

    async def _compact(self, then: int) -> int:
        """Compact at `then` (0: nothing yet), if it is this server's turn; the revision for the next turn."""
        now = await self._store.current_revision()
        if self._store.shared and not await self._take_turn(now):
            return now
        if then > await self._store.compacted_revision():
            await self._store.compact(then)
        return now

    async def _take_turn(self, now: int) -> bool:
        """True for one of the servers, each time the interval is over."""
        mine = Compare(TURN_KEY, CompareTarget.VERSION, self._turn)
        result = await self._store.txn([mine], [Put(TURN_KEY, str(now).encode())], [Get(TURN_KEY)])
        if result.succeeded:
            self._turn += 1
            return True
        self._turn = result.responses[0][0].version if result.responses[0] else 0
        return False


class SharedLeases:
    """Leases for objects that expire: one for all that are written within a minute, a minute longer than `ttl`."""

    def __init__(self, store: Callable[[], Store], clock: Clock, ttl: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._ttl = ttl.total_seconds()
        self._lease = 0
        self._granted = 0.0

    async def current(self) -> int:
        """The lease to write under now."""
        if not self._lease or self._clock.monotonic() - self._granted > LEASE_SHARED_FOR:
            self._granted = self._clock.monotonic()
            self._lease = (await self._store().grant_lease(int(self._ttl + LEASE_SHARED_FOR))).id
        return self._lease

    def lost(self, error: LeaseNotFound) -> None:
        """The store does not know the lease any more (the clock jumped): the next write gets another."""
        log.info("%s; granting another lease", error)
        self._lease = 0
