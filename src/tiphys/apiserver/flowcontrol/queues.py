"""PriorityLevel: the seats of one level, and the queues of those that wait for one.

    hand of a flow      queues                                 seats
    ┌ 3 7 12 … ┐   3: ▯▯▯  next_start 5.1   ─┐
                   7: ▯    next_start 4.8   ─┼─ the least virtual finish goes first ──▶ ▮▮▮▮▯▯  in_use ≤ limit
                  12:      next_start 4.9   ─┘

Fair queuing in virtual time: the clock of the level goes at the rate at which each queue that is not empty would be
served if seats were divided evenly among them. A queue is charged for what it is served; an idle one saves nothing up.
How long a request takes is not known before: GUESS is charged, and corrected when it ends.
https://kubernetes.io/docs/concepts/cluster-administration/flow-control/, KEP-1040.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tiphys.apiserver.flowcontrol.dealer import flow_hash, hand_of
from tiphys.apiserver.flowcontrol.demand import Demand
from tiphys.apiserver.flowcontrol.seats import CONCURRENCY_LIMIT, QUEUE_FULL, TIME_OUT, Now, Seat
from tiphys.apiserver.flowcontrol.shares import LevelSpec, Limits, Queuing

GUESS: Final = 0.003  # seconds
REMEMBERED_HANDS: Final = 10_000


class Queue:
    """Requests of some flows, first come, first served."""

    __slots__ = ("executing", "in_use", "index", "next_start", "size", "waiting", "waiting_seats")

    def __init__(self, index: int) -> None:
        self.index = index
        self.waiting: deque[Seat] = deque()
        self.waiting_seats = self.executing = self.in_use = 0
        self.size = 0  # requests, waiting and executing; without any it takes no part in the division of the seats
        self.next_start = 0.0  # virtual time at which the oldest waiting request would begin


class PriorityLevel:
    """One level. Everything happens in the event loop; `now` gives its seconds."""

    def __init__(self, spec: LevelSpec, limits: Limits, now: Now) -> None:
        self.spec = spec
        self.limits = limits
        self.limit = limits.nominal  # seats it has at present
        self.quiescing = False  # its object is gone; what is in it is still served
        self.in_use = self.dispatched = self.waiting = 0
        self.rejected: dict[str, int] = {}
        self.executing: dict[Seat, None] = {}
        self.demand = Demand(now())
        self.virtual = 0.0  # the level's virtual time, in seconds
        self.queues: list[Queue] = []
        self._now = now
        self._hands: dict[tuple[str, str], tuple[int, ...]] = {}
        self._robin = 0
        self._active = 0  # queues that are not empty
        self._wanted = 0  # seats of the requests in them
        self._last = now()
        self._queuing: Queuing | None = None
        self.configure(spec, limits)

    def configure(self, spec: LevelSpec, limits: Limits) -> None:
        """The level's object or the server's seats have changed. Queues that are not empty are kept."""
        self.spec, self.limits, self.quiescing = spec, limits, False
        self.limit = min(max(self.limit, limits.lower), limits.upper)
        queuing = None if spec.exempt else spec.queuing
        if queuing != self._queuing:
            self._hands.clear()
            self._queuing = queuing
            wanted = queuing.queues if queuing is not None else 0
            more = [queue for queue in self.queues[wanted:] if queue.waiting]
            self.queues = [*self.queues[:wanted], *map(Queue, range(len(self.queues), wanted)), *more]
        self.dispatch()

    @property
    def idle(self) -> bool:
        """Whether nothing is in it."""
        return not self.waiting and not self.executing

    # --- in and out -------------------------------------------------------------------------------
    def enter(self, seat: Seat) -> str | None:
        """Take a request in: it executes, or it waits (`seat.granted`). A reason when it is refused."""
        if self.spec.exempt:
            self._execute(seat)
            return None
        self.demand.change(seat.seats, seat.arrived)
        if not self.in_use and not self.waiting:  # the level is empty: there is nobody to be fair to
            self._execute(seat)
            return None
        if self._queuing is None:
            if self._fits(seat):
                self._execute(seat)
                return None
            return self._refuse(seat, CONCURRENCY_LIMIT)
        self._advance()
        queue = self._shortest(seat)
        if len(queue.waiting) >= self._queuing.length:
            return self._refuse(seat, QUEUE_FULL)
        seat.queue = queue
        self._join(queue, seat)
        if not self.waiting and self._fits(seat):
            seat.flows.lengths.observe(1)
            self._charge(queue, seat)
            self._execute(seat)
            return None
        self._enqueue(queue, seat)
        return None

    def give_up(self, seat: Seat, reason: str) -> None:
        """A waiting request waits no longer."""
        queue, flows = seat.queue, seat.flows
        if queue is None or seat not in queue.waiting:
            return
        self._advance()
        queue.waiting.remove(seat)
        queue.waiting_seats -= seat.seats
        self._part(queue, seat)
        self.waiting -= 1
        flows.waiting -= 1
        flows.waiting_seats -= seat.seats
        now = self._now()
        self.demand.change(-seat.seats, now)
        flows.waited_in_vain.observe(now - seat.arrived)
        self._count(seat, reason)
        seat.done = True
        self.dispatch()

    def finish(self, seat: Seat) -> None:
        """An executing request was served; what waits moves up."""
        now = self._now()
        flows = seat.flows
        del self.executing[seat]
        flows.executing -= 1
        duration = now - seat.started
        (flows.watch_execution if seat.watch else flows.execution).observe(duration)
        if seat.final_seats:
            self._keep_final_seats(seat, now)
        else:
            self._release(seat, seat.seats, now)
        queue = seat.queue
        if queue is not None:
            self._advance()
            queue.executing -= 1
            queue.in_use -= seat.seats
            self._part(queue, seat)
            queue.next_start += duration * seat.seats + seat.final_seats * seat.latency - seat.work
        if self.waiting:
            self.dispatch()

    # --- parts ------------------------------------------------------------------------------------
    def _fits(self, seat: Seat) -> bool:
        # A request wider than the level is served alone, or it would never be.
        return self.in_use + seat.seats <= self.limit or not self.in_use

    def _execute(self, seat: Seat) -> None:
        flows = seat.flows
        seats = seat.seats
        self.in_use += seats
        self.dispatched += 1
        self.executing[seat] = None
        flows.dispatched += 1
        flows.executing += 1
        flows.executing_seats += seats
        if self.spec.exempt:
            self.demand.change(seats, seat.arrived)
            return
        # An observation of nothing, without the search for its bucket: most requests do not wait.
        waited = seat.started - seat.arrived
        if waited:
            flows.waited.observe(waited)
        else:
            flows.waited.counts[0] += 1

    def _release(self, seat: Seat, seats: int, now: float) -> None:
        self.in_use -= seats
        seat.flows.executing_seats -= seats
        self.demand.change(-seats, now)

    def _keep_final_seats(self, seat: Seat, now: float) -> None:
        """Those who watch the object that was written are told now: that is work too."""
        change = seat.final_seats - seat.seats
        self.in_use += change
        seat.flows.executing_seats += change
        self.demand.change(change, now)

        def release() -> None:
            self._release(seat, seat.final_seats, self._now())
            if self.waiting:
                self.dispatch()

        asyncio.get_running_loop().call_later(seat.latency, release)

    def _refuse(self, seat: Seat, reason: str) -> str:
        self.demand.change(-seat.seats, seat.arrived)
        self._count(seat, reason)
        return reason

    def _count(self, seat: Seat, reason: str) -> None:
        seat.flows.reject(reason)
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _enqueue(self, queue: Queue, seat: Seat) -> None:
        seat.granted = asyncio.get_running_loop().create_future()
        queue.waiting.append(seat)
        queue.waiting_seats += seat.seats
        self.waiting += 1
        flows = seat.flows
        flows.waiting += 1
        flows.waiting_seats += seat.seats
        flows.lengths.observe(len(queue.waiting))

    def _shortest(self, seat: Seat) -> Queue:
        """The queue of the flow's hand with the least work in it."""
        key = (seat.flows.schema.name, seat.flow)
        hand = self._hands.get(key)
        if hand is None:
            if len(self._hands) >= REMEMBERED_HANDS:
                self._hands.clear()
            assert self._queuing is not None, "a level without queues"
            hand = hand_of(flow_hash(*key), self._queuing.queues, self._queuing.hand_size)
            self._hands[key] = hand
        queues = self.queues
        return min((queues[card] for card in hand), key=lambda queue: queue.waiting_seats + queue.in_use)

    # --- fairness ---------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Bring the virtual time up to now."""
        now = self._now()
        passed, self._last = now - self._last, now
        if self._active:
            self.virtual += passed * min(self._wanted, max(self.limit, 1)) / self._active

    def _join(self, queue: Queue, seat: Seat) -> None:
        """One more request, waiting or executing, in a queue."""
        if not queue.size:
            self._active += 1
            queue.next_start = self.virtual  # what was not used before is not saved up
        queue.size += 1
        self._wanted += seat.seats

    def _part(self, queue: Queue, seat: Seat) -> None:
        """One fewer."""
        queue.size -= 1
        self._wanted -= seat.seats
        if not queue.size:
            self._active -= 1

    def _charge(self, queue: Queue, seat: Seat) -> None:
        seat.work = seat.seats * GUESS + seat.final_seats * seat.latency
        queue.next_start += seat.work
        queue.executing += 1
        queue.in_use += seat.seats

    def _next(self) -> Queue | None:
        """The queue whose oldest request would be done first; among equals the next in turn."""
        best: Queue | None = None
        least = 0.0
        count = len(self.queues)
        for step in range(count):
            queue = self.queues[(self._robin + step) % count]
            if not queue.waiting:
                continue
            finish = queue.next_start + GUESS * queue.waiting[0].seats
            if best is None or finish < least:
                best, least = queue, finish
        return best

    def dispatch(self) -> None:
        """Let as many of those that wait execute as there are seats for."""
        while self.waiting:
            self._advance()
            queue = self._next()
            if queue is None:
                return
            seat = queue.waiting[0]
            if not self._fits(seat):
                return  # nobody overtakes a wide request, or it would wait for ever
            self._robin = queue.index + 1
            queue.waiting.popleft()
            queue.waiting_seats -= seat.seats
            self.waiting -= 1
            seat.flows.waiting -= 1
            seat.flows.waiting_seats -= seat.seats
            seat.started = self._now()
            self._charge(queue, seat)
            self._execute(seat)
            if seat.granted is not None and not seat.granted.done():
                seat.granted.set_result(None)


def timed_out(seat: Seat) -> None:
    """For a timer: the request has waited long enough."""
    if seat.granted is not None and not seat.granted.done():
        seat.level.give_up(seat, TIME_OUT)
        seat.granted.cancel()
