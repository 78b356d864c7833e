"""A queue of keys to be worked on, as controllers use it.

Promises: a key added several times before it is taken is given out once; a key is never given to
two workers at a time; a key added while it is being worked on is given out again afterwards. So a
worker may read the state once at its start and no change after that is missed.

    add ──► dirty ──► ready (in order) ──► get: processing ──► done ──► (dirty again? ready)
    add_after ──► a heap by moment ──► add
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from tiphys.base.clock import Clock
from tiphys.base.metrics import REGISTRY
from tiphys.client.waiting import wait_until

K = TypeVar("K", bound=Hashable)

FIRST_RETRY: Final = 0.005  # seconds; doubles with each failure of a key
LONGEST_RETRY: Final = 1000.0
_FOREVER: Final = 3600.0

_DURATIONS: Final = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
_adds = REGISTRY.counter("workqueue_adds_total", "Total number of adds handled by workqueue", ["name"])
_depth = REGISTRY.gauge("workqueue_depth", "Current depth of workqueue", ["name"])
_retries = REGISTRY.counter("workqueue_retries_total", "Total number of retries handled by workqueue", ["name"])
_waited = REGISTRY.histogram(
    "workqueue_queue_duration_seconds",
    "How long in seconds an item stays in workqueue before being requested",
    ["name"],
    _DURATIONS,
)
_worked = REGISTRY.histogram(
    "workqueue_work_duration_seconds",
    "How long in seconds processing an item from workqueue takes.",
    ["name"],
    _DURATIONS,
)


class WorkQueue(Generic[K]):
    """Keys waiting for workers. `run` must be running for delayed keys to come due."""

    def __init__(
        self, clock: Clock, name: str = "", *, first_retry: float = FIRST_RETRY, longest_retry: float = LONGEST_RETRY
    ) -> None:
        self._clock = clock
        self._first_retry = first_retry
        self._longest_retry = longest_retry
        self._ready: deque[K] = deque()
        self._dirty: dict[K, float] = {}  # key -> when it was added
        self._processing: dict[K, float] = {}  # key -> when it was taken
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._failures: dict[K, int] = {}
        self._order = itertools.count()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # the earliest moment of each delayed key; others in the heap are stale
        self._delays_changed = asyncio.Event()
        self._adds = _adds.labels(name)
        self._depth = _depth.labels(name)
        self._retries = _retries.labels(name)
        self._waited = _waited.labels(name)
        self._worked = _worked.labels(name)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is ready or being worked on (keys may be delayed)."""
        return not self._ready and not self._processing

    def add(self, key: K) -> None:
        """Have `key` worked on."""
        if key in self._dirty:
            return
        self._dirty[key] = self._clock.monotonic()
        self._adds.inc()
        if key not in self._processing:
            self._make_ready(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have `key` worked on after `seconds`; of several delays of one key the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        if self._delayed[0][0] == due:
            self._delays_changed.set()

    def add_rate_limited(self, key: K) -> None:
        """Have `key` worked on again after a failure: 5 ms the first time, doubling to 1000 s."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retries.inc()
        # The exponent is bounded so that the power stays a float.
        self.add_after(key, min(self._first_retry * 2.0 ** min(failures, 60), self._longest_retry))

    def forget(self, key: K) -> None:
        """`key` succeeded: its next failure starts from the shortest delay."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often `key` failed in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; every `get` is followed by `done`."""
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # The wake-up given to us must not be lost with us.
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                raise
        key = self._ready.popleft()
        self._depth.set(len(self._ready))
        now = self._clock.monotonic()
        self._waited.observe(now - self._dirty.pop(key, now))
        self._processing[key] = now
        return key

    def done(self, key: K) -> None:
        """`key` is no longer being worked on; given out again if it was added meanwhile."""
        now = self._clock.monotonic()
        self._worked.observe(now - self._processing.pop(key, now))
        if key in self._dirty:
            self._make_ready(key)

    async def run(self) -> None:
        """Move delayed keys to the queue when they come due, until cancelled."""
        while True:
            self._delays_changed.clear()
            now = self._clock.monotonic()
            while self._delayed and self._delayed[0][0] <= now:
                due, _, key = heapq.heappop(self._delayed)
                if self._due.get(key) == due:
                    del self._due[key]
                    self.add(key)
            wait = self._delayed[0][0] - now if self._delayed else _FOREVER
            await wait_until(self._delays_changed, self._clock, wait)

    def _make_ready(self, key: K) -> None:
        self._ready.append(key)
        self._depth.set(len(self._ready))
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
