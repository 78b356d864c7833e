"""What takes seats: one request on its way through a priority level, and the counters of its schema.

arrived ──▶ waiting in a queue ──▶ executing ──▶ done (perhaps keeping final seats for a moment)
      └────────────────────────────▶
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.flowcontrol.schema import FlowSchema

if TYPE_CHECKING:
    from tiphys.apiserver.flowcontrol.queues import PriorityLevel, Queue

SECONDS: Final = (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)
SEATS: Final = (1, 2, 4, 8, 16, 32, 64, 100)
LENGTHS: Final = (0, 10, 25, 50, 100, 250, 500, 1000)
WATCHERS: Final = (0, 1, 10, 100, 1000, 10000)

# Why a request was not served.
CONCURRENCY_LIMIT: Final = "concurrency-limit"
QUEUE_FULL: Final = "queue-full"
TIME_OUT: Final = "time-out"
CANCELLED: Final = "cancelled"


class Histogram:
    """Counts by bucket; a request path adds to it, a scrape reads it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Flows:
    """One schema at one priority level: the headers its answers carry, and what happened to its requests."""

    __slots__ = (
        "dispatched",
        "executing",
        "executing_seats",
        "execution",
        "headers",
        "lengths",
        "level",
        "rejected",
        "schema",
        "seats",
        "waited",
        "waited_in_vain",
        "waiting",
        "waiting_seats",
        "watch_execution",
        "watchers",
    )

    def __init__(self, schema: FlowSchema, level: PriorityLevel) -> None:
        self.schema = schema
        self.level = level
        self.headers = (
            ("X-Kubernetes-PF-FlowSchema-UID", schema.uid),
            ("X-Kubernetes-PF-PriorityLevel-UID", level.spec.uid),
        )
        self.dispatched = self.executing = self.executing_seats = self.waiting = self.waiting_seats = 0
        self.rejected: dict[str, int] = {}
        self.execution, self.watch_execution = Histogram(SECONDS), Histogram(SECONDS)
        self.waited, self.waited_in_vain = Histogram(SECONDS), Histogram(SECONDS)
        self.seats, self.lengths, self.watchers = Histogram(SEATS), Histogram(LENGTHS), Histogram(WATCHERS)

    def renew(self, schema: FlowSchema, level: PriorityLevel) -> None:
        """The schema or its level were written: the counters go on."""
        self.schema = schema
        self.level = level
        self.headers = (
            ("X-Kubernetes-PF-FlowSchema-UID", schema.uid),
            ("X-Kubernetes-PF-PriorityLevel-UID", level.spec.uid),
        )

    def reject(self, reason: str) -> None:
        """Count a request that was not served."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1


class Seat:
    """One request. Whoever got it calls `leave` exactly once, after `granted` where it had to wait."""

    __slots__ = (
        "arrived",
        "done",
        "final_seats",
        "flow",
        "flows",
        "granted",
        "info",
        "latency",
        "level",
        "queue",
        "seats",
        "started",
        "user",
        "watch",
        "work",
    )

    def __init__(
        self,
        flows: Flows,
        flow: str,
        info: RequestInfo,
        user: UserInfo,
        arrived: float,
        seats: int,
        final_seats: int = 0,
        latency: float = 0.0,
    ) -> None:
        """`arrived`, `latency`: seconds; `final_seats` are kept for `latency` after the request was served."""
        self.flows = flows
        self.level = flows.level
        self.flow = flow
        self.info = info
        self.user = user
        self.arrived = self.started = arrived
        self.seats = seats
        self.final_seats = final_seats
        self.latency = latency
        self.watch = info.verb == "watch"
        self.queue: Queue | None = None
        self.granted: asyncio.Future[None] | None = None  # while it waits
        self.work = 0.0  # seat-seconds its queue was charged with when it was dispatched
        self.done = False

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What its answer says about how it was treated."""
        return self.flows.headers

    def leave(self) -> None:
        """The request was served (a watch: its initial part); calling it again does nothing."""
        if not self.done:
            self.done = True
            self.level.finish(self)


Now = Callable[[], float]
