"""/debug/api_priority_and_fairness/: what is in the levels and queues at this moment, as tables for people.

https://kubernetes.io/docs/reference/debug-cluster/flow-control/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, timedelta
from typing import Final

from tiphys.apiserver.endpoints.health import TEXT
from tiphys.apiserver.endpoints.paths import PathHandler
from tiphys.apiserver.flowcontrol.config import FlowControl
from tiphys.apiserver.flowcontrol.queues import GUESS, PriorityLevel
from tiphys.apiserver.flowcontrol.seats import CANCELLED, CONCURRENCY_LIMIT, QUEUE_FULL, TIME_OUT, Seat
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response
from tiphys.base.clock import Clock

ROOT: Final = "/debug/api_priority_and_fairness"
_LEVELS: Final = (
    "PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
    "DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests",
)  # fmt: skip
_QUEUES: Final = (
    "PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
    "InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum",
)  # fmt: skip
_REQUESTS: Final = (
    "PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
    "InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime",
)  # fmt: skip
NEVER: Final = "0001-01-01T00:00:00Z"
_DETAILS: Final = (
    "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource",
)  # fmt: skip


def handlers(control: FlowControl, clock: Clock) -> dict[str, PathHandler]:
    """The pages by their paths."""

    async def levels(request: Request) -> Response:
        return _page(_LEVELS, map(_level, _sorted(control)))

    async def queues(request: Request) -> Response:
        return _page(_QUEUES, (row for level in _sorted(control) for row in _queues(level)))

    async def requests(request: Request) -> Response:
        detailed = request.parameter("includeRequestDetails") in ("1", "true") if request.raw_query else False
        rows = (row for level in _sorted(control) for row in _requests(level, clock, detailed))
        return _page([*_REQUESTS, *_DETAILS] if detailed else _REQUESTS, rows)

    return {
        f"{ROOT}/dump_priority_levels": levels,
        f"{ROOT}/dump_queues": queues,
        f"{ROOT}/dump_requests": requests,
    }


def _sorted(control: FlowControl) -> list[PriorityLevel]:
    return sorted(control.levels.values(), key=lambda level: level.spec.name)


def _level(level: PriorityLevel) -> list[str]:
    refused = sum(level.rejected.get(reason, 0) for reason in (CONCURRENCY_LIMIT, QUEUE_FULL))
    active = sum(1 for queue in level.queues if queue.size)
    numbers = (level.waiting, len(level.executing), level.dispatched, refused)
    ended = (level.rejected.get(reason, 0) for reason in (TIME_OUT, CANCELLED))
    flags = (str(found).lower() for found in (level.idle, level.quiescing))
    return [level.spec.name, str(active), *flags, *map(str, (*numbers, *ended))]


def _queues(level: PriorityLevel) -> Iterator[list[str]]:
    for queue in level.queues:
        widest = sum(max(seat.seats, seat.final_seats) for seat in queue.waiting)
        work = sum(GUESS * seat.seats + seat.final_seats * seat.latency for seat in queue.waiting)
        numbers = (queue.index, len(queue.waiting), queue.executing, queue.in_use)
        start, sums = f"{queue.next_start:.8f}ss", (queue.waiting_seats, widest)
        yield [level.spec.name, *map(str, numbers), start, *map(str, sums), f"{work:.8f}ss"]


def _requests(level: PriorityLevel, clock: Clock, detailed: bool) -> Iterator[list[str]]:
    now, moment = clock.now(), clock.monotonic()

    def time(seconds: float) -> str:
        then = (now - timedelta(seconds=moment - seconds)).astimezone(UTC)
        return f"{then:%Y-%m-%dT%H:%M:%S.%f}000Z"

    def row(seat: Seat, place: int) -> list[str]:
        queue = -1 if seat.queue is None else seat.queue.index
        started = time(seat.started) if place < 0 else NEVER
        found = [level.spec.name, seat.flows.schema.name, str(queue), str(place), seat.flow, time(seat.arrived)]
        found += [str(seat.seats), str(seat.final_seats), f"{seat.latency:g}s", started]
        info = seat.info
        if detailed:
            version = f"{info.api_group}/{info.api_version}" if info.api_group else info.api_version
            found += [seat.user.name, info.verb, info.path, info.namespace, info.name, version]
            found += [info.resource, info.subresource]
        return found

    for queue in level.queues:
        for place, seat in enumerate(queue.waiting):
            yield row(seat, place)
    for seat in level.executing:
        yield row(seat, -1)


def _page(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Response:
    """Columns are as wide as their widest cell; all but the last end in a comma."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) + 2 for column in range(len(header) - 1)]
    lines = []
    for row in table:
        cells = [f"{cell},".ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join(cells) + row[-1])
    return Response(200, "".join(f"{line}\n" for line in lines).encode(), content_type=TEXT)
