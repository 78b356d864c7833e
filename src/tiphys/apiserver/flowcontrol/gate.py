"""The way in: what the handler asks before it serves a request.

Long-running requests (exec, logs, proxies, …) are let through: they would hold their seats for hours. A watch takes
its seats only until its initial part has been sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from tiphys.apiserver.authn.interface import GROUP_MASTERS
from tiphys.apiserver.endpoints.health import TEXT
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.flowcontrol.config import FlowControl
from tiphys.apiserver.flowcontrol.queues import timed_out
from tiphys.apiserver.flowcontrol.seats import CANCELLED, Now, Seat
from tiphys.apiserver.flowcontrol.width import WRITES, Estimator
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Headers, Response
from tiphys.apiserver.waits import waited

LONG_RUNNING_VERBS: Final = frozenset({"watch", "proxy"})
LONG_RUNNING: Final = frozenset({"attach", "exec", "proxy", "log", "portforward"})
# A quarter of the sixty seconds a request may take: whoever waited longer would hardly be served in time.
QUEUE_WAIT: Final = 15.0  # seconds


def is_long_running(info: RequestInfo) -> bool:
    """Whether nobody knows how long serving this request takes."""
    return info.verb in LONG_RUNNING_VERBS or info.subresource in LONG_RUNNING


class TooMany(Exception):
    """The request is not served: 429."""

    def __init__(self, headers: Headers = ()) -> None:
        super().__init__("Too many requests, please try again later.")
        self.response = Response(
            429,
            b"Too many requests, please try again later.\n",
            content_type=TEXT,
            headers=[("Retry-After", "1"), ("X-Content-Type-Options", "nosniff"), *headers],
        )


class Gate(Protocol):
    """Decides which requests are served, and when."""

    def enter(self, request: Request, info: RequestInfo) -> Awaitable[None] | None:
        """Give the request its place, `request.place`, unless it needs none.

        What is returned has to be awaited before the request is served. Both raise TooMany.
        """


class FairGate:
    """API priority and fairness."""

    def __init__(self, control: FlowControl, estimator: Estimator, now: Now, queue_wait: float = QUEUE_WAIT) -> None:
        """`queue_wait`: seconds a request waits in a queue at most."""
        self.control = control
        self._estimator = estimator
        self._now = now
        self._queue_wait = queue_wait

    def enter(self, request: Request, info: RequestInfo) -> Awaitable[None] | None:
        """See `Gate`."""
        if info.subresource in LONG_RUNNING or info.verb == "proxy":
            return None
        user = request.user
        flows = self.control.classify(user, info)
        level = flows.level
        width = self._estimator.width(request, info, level.limits.nominal)
        flow = flows.schema.flow_of(user, info) if level.queues else ""
        seat = Seat(flows, flow, info, user, self._now(), width.seats, width.final_seats, width.latency)
        flows.seats.observe(max(width.seats, width.final_seats))
        if width.watchers >= 0:
            flows.watchers.observe(width.watchers)
        if level.enter(seat) is not None:
            raise TooMany(flows.headers)
        request.place = seat
        return None if seat.granted is None else self._wait(seat, seat.granted)

    async def _wait(self, seat: Seat, granted: asyncio.Future[None]) -> None:
        began = time.perf_counter()
        timer = asyncio.get_running_loop().call_later(self._queue_wait, timed_out, seat)
        try:
            await granted
        except asyncio.CancelledError:
            if seat.done:  # by the timer
                raise TooMany(seat.headers) from None
            if seat in seat.level.executing:
                seat.leave()  # granted in the moment the client went away
            else:
                seat.level.give_up(seat, CANCELLED)
            raise
        finally:
            timer.cancel()
            waited(time.perf_counter() - began)


class _Counted:
    """A place of MaxInFlight."""

    headers: Headers = ()

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None


class MaxInFlight:
    """Without priority and fairness: two limits, one for reads and one for writes; administrators have none."""

    def __init__(self, reads: int, writes: int) -> None:
        """A limit of 0 is none."""
        self._limits = {False: reads, True: writes}
        self._serving = {False: 0, True: 0}

    def enter(self, request: Request, info: RequestInfo) -> Awaitable[None] | None:
        """See `Gate`; nobody waits."""
        if is_long_running(info) or GROUP_MASTERS in request.user.groups:
            return None
        kind = info.verb in WRITES
        limit = self._limits[kind]
        if limit and self._serving[kind] >= limit:
            raise TooMany
        self._serving[kind] += 1

        def leave() -> None:
            self._serving[kind] -= 1

        request.place = _Counted(leave)
        return None
