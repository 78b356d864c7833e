"""Seats and queues of a level, with a clock of its own."""

from __future__ import annotations

import asyncio

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.endpoints.request_info import parse_request_info
from tiphys.apiserver.flowcontrol.queues import PriorityLevel, timed_out
from tiphys.apiserver.flowcontrol.schema import FlowSchema
from tiphys.apiserver.flowcontrol.seats import CANCELLED, CONCURRENCY_LIMIT, QUEUE_FULL, TIME_OUT, Flows, Seat
from tiphys.apiserver.flowcontrol.shares import LevelSpec, Limits, Queuing

INFO = parse_request_info("GET", "/api/v1/namespaces/d/pods/p", {})


class Bench:
    """A level of so many seats, and a clock."""

    def __init__(self, seats: int, queuing: Queuing | None = None, *, exempt: bool = False) -> None:
        self.time = 0.0
        spec = LevelSpec("level", exempt=exempt, queuing=queuing)
        self.level = PriorityLevel(spec, Limits(seats, seats, seats), lambda: self.time)
        self.flows = Flows(FlowSchema("s", "", "level", 1, "ByUser", ()), self.level)

    def seat(self, flow: str = "", seats: int = 1, final: int = 0, latency: float = 0.0) -> Seat:
        return Seat(self.flows, flow, INFO, UserInfo(flow), self.time, seats, final, latency)

    def enter(self, flow: str = "", seats: int = 1) -> Seat:
        seat = self.seat(flow, seats)
        assert self.level.enter(seat) is None
        return seat


def waits(seat: Seat) -> bool:
    return seat.granted is not None and not seat.granted.done()


async def test_without_queues_what_is_too_much_is_refused() -> None:
    bench = Bench(2)
    first, second = bench.enter(), bench.enter()
    assert bench.level.enter(bench.seat()) == CONCURRENCY_LIMIT
    first.leave()
    first.leave()  # nothing happens
    assert bench.level.in_use == 1
    bench.enter().leave()
    second.leave()
    assert (bench.level.in_use, bench.level.idle, bench.flows.rejected) == (0, True, {CONCURRENCY_LIMIT: 1})
    assert bench.level.demand.value == 0


async def test_a_wide_request_is_served_alone() -> None:
    bench = Bench(2)
    wide = bench.enter(seats=5)
    assert bench.level.enter(bench.seat()) == CONCURRENCY_LIMIT
    wide.leave()
    bench.enter()
    assert bench.level.enter(bench.seat(seats=5)) == CONCURRENCY_LIMIT


async def test_exempt_requests_are_counted_only() -> None:
    bench = Bench(0, exempt=True)
    seats = [bench.enter() for _ in range(100)]
    assert (bench.level.in_use, bench.flows.executing) == (100, 100)
    for seat in seats:
        seat.leave()
    assert bench.level.demand.take(1.0).high == 100
    assert bench.level.in_use == 0


async def test_queues_are_first_come_first_served_and_full_some_time() -> None:
    bench = Bench(1, Queuing(queues=1, hand_size=1, length=2))
    serving = bench.enter("a")
    waiting = [bench.enter("a"), bench.enter("a")]
    assert all(map(waits, waiting))
    assert bench.level.enter(bench.seat("a")) == QUEUE_FULL
    assert bench.flows.waiting == 2
    for seat in waiting:
        serving.leave()
        assert not waits(seat)
        serving = seat
    serving.leave()
    assert bench.level.idle


async def test_a_flood_does_not_keep_others_waiting() -> None:
    bench = Bench(2, Queuing(queues=64, hand_size=6, length=50))
    executing = [bench.enter("flood"), bench.enter("flood")]
    flood = [bench.enter("flood") for _ in range(200)]
    mouse = [bench.enter("mouse") for _ in range(4)]
    served: list[Seat] = []
    while any(map(waits, mouse)):
        bench.time += 0.01
        executing.pop(0).leave()
        for seat in (*flood, *mouse):
            if not waits(seat) and seat not in served:
                served.append(seat)
                executing.append(seat)
    # Its queues take turns with those of the flood's hand, instead of waiting for two hundred.
    assert len(served) < 20


async def test_long_requests_are_charged_for_their_time() -> None:
    bench = Bench(1, Queuing(queues=2, hand_size=1, length=50))
    names = {bench.level._shortest(bench.seat(str(number))).index: str(number) for number in range(20)}
    slow, fast = names[0], names[1]
    current = bench.enter(slow)
    queued = [bench.enter(flow) for _ in range(30) for flow in (slow, fast)]
    spent = {slow: 0.0, fast: 0.0}
    for _ in range(30):
        duration = 0.1 if current.flow == slow else 0.01
        bench.time += duration
        spent[current.flow] += duration
        current.leave()
        current = next(seat for seat in queued if not waits(seat) and not seat.done)
    assert spent[fast] > spent[slow] / 3  # in turns it would be a tenth


async def test_nobody_overtakes_a_wide_request() -> None:
    bench = Bench(4, Queuing(queues=1, hand_size=1, length=50))
    first, second = bench.enter(seats=2), bench.enter(seats=2)
    wide, narrow = bench.enter(seats=4), bench.enter()
    first.leave()
    assert waits(wide)
    assert waits(narrow)
    second.leave()
    assert not waits(wide)
    assert waits(narrow)


async def test_who_gives_up_leaves_nothing_behind() -> None:
    bench = Bench(1, Queuing(queues=4, hand_size=2, length=50))
    serving = bench.enter("a")
    late, gone, stays = bench.enter("a"), bench.enter("b"), bench.enter("c")
    timed_out(late)
    assert late.granted is not None
    assert late.granted.cancelled()
    bench.level.give_up(gone, CANCELLED)
    serving.leave()
    assert not waits(stays)
    stays.leave()
    assert bench.flows.rejected == {TIME_OUT: 1, CANCELLED: 1}
    assert (bench.level.idle, bench.level.in_use, bench.level.demand.value) == (True, 0, 0)
    assert all(not queue.size and not queue.in_use for queue in bench.level.queues)
    assert (bench.flows.waiting, bench.flows.waiting_seats, bench.level._active, bench.level._wanted) == (0, 0, 0, 0)


async def test_final_seats_are_kept_for_a_moment() -> None:
    bench = Bench(4)
    seat = bench.seat(final=3, latency=0.01)
    assert bench.level.enter(seat) is None
    seat.leave()
    assert bench.level.in_use == 3
    await asyncio.sleep(0.03)
    assert bench.level.in_use == 0


async def test_more_seats_let_those_who_wait_in() -> None:
    bench = Bench(1, Queuing(queues=4, hand_size=2, length=50))
    bench.enter("a")
    waiting = bench.enter("b")
    bench.level.limit = 2
    bench.level.dispatch()
    assert not waits(waiting)


async def test_fewer_queues_lose_nobody() -> None:
    bench = Bench(1, Queuing(queues=64, hand_size=2, length=50))
    serving = bench.enter("a")
    waiting = [bench.enter(str(number)) for number in range(20)]
    bench.level.configure(LevelSpec("level", queuing=Queuing(queues=1, hand_size=1)), bench.level.limits)
    while any(map(waits, waiting)):
        serving.leave()
        serving = next(seat for seat in waiting if not waits(seat) and not seat.done)
    serving.leave()
    assert bench.level.idle
