"""apiserver_flowcontrol_*: read from the levels and flows when somebody asks, so that counting costs requests little.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tiphys.apiserver.flowcontrol.config import FlowControl
from tiphys.apiserver.flowcontrol.queues import GUESS, PriorityLevel
from tiphys.apiserver.flowcontrol.seats import Flows, Histogram
from tiphys.apiserver.flowcontrol.width import WRITES

PREFIX: Final = "apiserver_flowcontrol_"
Labels = tuple[tuple[str, str], ...]
Series = Iterable[tuple[Labels, float]]

# Name, kind, help and value of what is said of each schema at its level.
_FLOW_NUMBERS: Final[tuple[tuple[str, str, str, Callable[[Flows], float]], ...]] = (
    (
        "current_executing_requests",
        "gauge",
        (
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority "
            "and Fairness subsystem"
        ),
        lambda flows: flows.executing,
    ),
    (
        "current_executing_seats",
        "gauge",
        (
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage "
            "otherwise) requests in the API Priority and Fairness subsystem"
        ),
        lambda flows: flows.executing_seats,
    ),
    (
        "request_concurrency_in_use",
        "gauge",
        (
            "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage "
            "otherwise) requests in the API Priority and Fairness subsystem"
        ),
        lambda flows: flows.executing_seats,
    ),
    (
        "dispatched_requests_total",
        "counter",
        "Number of requests executed by API Priority and Fairness subsystem",
        lambda flows: flows.dispatched,
    ),
)
_QUEUE_NUMBERS: Final[tuple[tuple[str, str, str, Callable[[Flows], float]], ...]] = (
    (
        "current_inqueue_requests",
        "gauge",
        "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        lambda flows: flows.waiting,
    ),
    (
        "current_inqueue_seats",
        "gauge",
        "Number of seats currently pending in queues of the API Priority and Fairness subsystem",
        lambda flows: flows.waiting_seats,
    ),
)
_LEVEL_NUMBERS: Final[tuple[tuple[str, str, Callable[[FlowControl, PriorityLevel], float]], ...]] = (
    (
        "nominal_limit_seats",
        "Nominal number of execution seats configured for each priority level",
        lambda control, level: level.limits.nominal,
    ),
    (
        "request_concurrency_limit",
        "Nominal number of execution seats configured for each priority level",
        lambda control, level: level.limits.nominal,
    ),
    (
        "lower_limit_seats",
        "Configured lower bound on number of execution seats available to each priority level",
        lambda control, level: level.limits.lower,
    ),
    (
        "upper_limit_seats",
        "Configured upper bound on number of execution seats available to each priority level",
        lambda control, level: level.limits.upper,
    ),
    (
        "current_limit_seats",
        "current derived number of execution seats available to each priority level",
        lambda control, level: level.limit,
    ),
    (
        "demand_seats_high_watermark",
        "High watermark, over last adjustment period, of demand_seats",
        lambda control, level: control.observed[level.spec.name].high if level.spec.name in control.observed else 0,
    ),
    (
        "demand_seats_average",
        "Time-weighted average, over last adjustment period, of demand_seats",
        lambda control, level: control.observed[level.spec.name].average if level.spec.name in control.observed else 0,
    ),
    (
        "demand_seats_stdev",
        "Time-weighted standard deviation, over last adjustment period, of demand_seats",
        lambda control, level: (
            control.observed[level.spec.name].deviation if level.spec.name in control.observed else 0
        ),
    ),
    ("demand_seats_smoothed", "Smoothed seat demands", lambda control, level: level.demand.smoothed),
    (
        "target_seats",
        "Seat allocation targets",
        lambda control, level: control.claims[level.spec.name].target if level.spec.name in control.claims else 0,
    ),
    ("current_r", "R(time of last change)", lambda control, level: level.virtual),
)
_HISTOGRAMS: Final[tuple[tuple[str, str, Labels, Callable[[Flows], Histogram]], ...]] = (
    (
        "request_execution_seconds",
        (
            "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API "
            "Priority and Fairness subsystem"
        ),
        (("type", "regular"),),
        lambda flows: flows.execution,
    ),
    ("request_execution_seconds", "", (("type", "watch"),), lambda flows: flows.watch_execution),
    (
        "request_wait_duration_seconds",
        "Length of time a request spent waiting in its queue",
        (("execute", "true"),),
        lambda flows: flows.waited,
    ),
    ("request_wait_duration_seconds", "", (("execute", "false"),), lambda flows: flows.waited_in_vain),
    (
        "request_queue_length_after_enqueue",
        "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        (),
        lambda flows: flows.lengths,
    ),
    (
        "work_estimated_seats",
        (
            "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority "
            "and Fairness"
        ),
        (),
        lambda flows: flows.seats,
    ),
    (
        "watch_count_samples",
        "count of watchers for mutating requests in API Priority and Fairness",
        (),
        lambda flows: flows.watchers,
    ),
)


def exposition(control: FlowControl) -> Iterator[str]:
    """Every line."""
    levels = sorted(control.levels.values(), key=lambda level: level.spec.name)
    used = [flows for flows in control.flows.values() if flows.dispatched or flows.rejected or flows.waiting]
    used.sort(key=lambda flows: (flows.schema.name, flows.level.spec.name))
    for name, kind, help_text, value in _FLOW_NUMBERS:
        yield from _family(name, kind, help_text, ((_of(flows), value(flows)) for flows in used))
    queued = [flows for flows in used if not flows.level.spec.exempt]
    for name, kind, help_text, value in _QUEUE_NUMBERS:
        yield from _family(name, kind, help_text, ((_of(flows), value(flows)) for flows in queued))
    yield from _family(
        "rejected_requests_total",
        "counter",
        "Number of requests rejected by API Priority and Fairness subsystem",
        (
            ((*_of(flows), ("reason", reason)), count)
            for flows in used
            for reason, count in sorted(flows.rejected.items())
        ),
    )
    for name, help_text, number in _LEVEL_NUMBERS:
        series = (((("priority_level", level.spec.name),), number(control, level)) for level in levels)
        yield from _family(name, "gauge", help_text, series)
    fraction = "Fair fraction of server's concurrency to allocate to each priority level that can use it"
    yield from _family("seat_fair_frac", "gauge", fraction, [((), control.fraction)])
    yield from _bounds(levels)
    yield from _histograms(used)
    yield from _in_flight(levels)


def _of(flows: Flows) -> Labels:
    return (("flow_schema", flows.schema.name), ("priority_level", flows.level.spec.name))


def _histograms(used: list[Flows]) -> Iterator[str]:
    for name, help_text, extra, histogram in _HISTOGRAMS:
        lines = [line for flows in used for line in _buckets(name, (*_of(flows), *extra), histogram(flows))]
        if lines and help_text:
            yield f"# HELP {PREFIX}{name} {help_text}"
            yield f"# TYPE {PREFIX}{name} histogram"
        yield from lines


def _buckets(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    if not any(histogram.counts):
        return
    total = 0
    for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
        total += count
        yield f"{PREFIX}{name}_bucket{_written((*labels, ('le', f'{bound}')))} {total}"
    yield f"{PREFIX}{name}_sum{_written(labels)} {_number(histogram.total)}"
    yield f"{PREFIX}{name}_count{_written(labels)} {total}"


def _bounds(levels: list[PriorityLevel]) -> Iterator[str]:
    """The virtual starts of the oldest waiting requests, where any wait."""
    series: list[tuple[Labels, float]] = []
    discounted: list[tuple[Labels, float]] = []
    for level in levels:
        waiting = [queue for queue in level.queues if queue.waiting]
        for bound, choose in (("max", max), ("min", min)) if waiting else ():
            labels = (("bound", bound), ("priority_level", level.spec.name))
            series.append((labels, choose(queue.next_start for queue in waiting)))
            discounted.append((labels, choose(queue.next_start - GUESS * queue.in_use for queue in waiting)))
    help_text = "min and max, over queues, of S(oldest waiting request in queue)"
    yield from _family("next_s_bounds", "gauge", help_text, series)
    yield from _family("next_discounted_s_bounds", "gauge", f"{help_text} - estimated work in progress", discounted)


def _in_flight(levels: list[PriorityLevel]) -> Iterator[str]:
    executing = [seat for level in levels for seat in level.executing]
    waiting = [seat for level in levels for queue in level.queues for seat in queue.waiting]
    for name, help_text, seats in (
        (
            "apiserver_current_inflight_requests",
            (
                "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind "
                "in last second."
            ),
            executing,
        ),
        (
            "apiserver_current_inqueue_requests",
            "[ALPHA] Maximal number of queued requests in this apiserver per request kind in last second.",
            waiting,
        ),
    ):
        writes = sum(seat.info.verb in WRITES for seat in seats)
        yield f"# HELP {name} {help_text}"
        yield f"# TYPE {name} gauge"
        yield f'{name}{{request_kind="mutating"}} {writes}'
        yield f'{name}{{request_kind="readOnly"}} {len(seats) - writes}'


def _family(name: str, kind: str, help_text: str, series: Series) -> Iterator[str]:
    lines = [f"{PREFIX}{name}{_written(labels)} {_number(value)}" for labels, value in series]
    if lines:
        yield f"# HELP {PREFIX}{name} {help_text}"
        yield f"# TYPE {PREFIX}{name} {kind}"
        yield from lines


def _written(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
