"""What a simulated pod does next, and when: a function of the pod as the API shows it.

    bound ── start-after ──► running ── ready-after ──► ready ── run-for ──► ended
                                ▲                                  │
                                └── back-off, 10 s doubled to 5 m ──┘  unless the restart policy says it stays ended

    deleted ── stop-after ──► gone

Source: "Pod Lifecycle" of the Kubernetes documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from tiphys.machinery.time import parse_duration
from tiphys.simulation import annotations as names
from tiphys.simulation.views import PodView

JOB_RUNS_FOR: Final = timedelta(seconds=1)
FIRST_BACKOFF: Final = timedelta(seconds=10)
LONGEST_BACKOFF: Final = timedelta(minutes=5)
NONE: Final = timedelta(0)


class Step(Enum):
    """What happens to a pod."""

    START = "start"
    READY = "ready"
    END = "end"  # its containers end and stay so
    BACK_OFF = "back off"  # they end and will run again
    STOP = "stop"  # it is being deleted and waits for others' finalizers: tell them how it ended
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Next:
    """A step and the moment for it."""

    step: Step
    at: datetime


def next_step(pod: PodView, now: datetime) -> Next | None:
    """The pod's next step; None when it does nothing by itself any more. `now` counts where no time is written."""
    if pod.metadata.deletion_timestamp is not None:
        return _ending(pod, pod.metadata.deletion_timestamp)
    if pod.status.phase in ("Succeeded", "Failed"):
        return None
    bound = pod.condition("PodScheduled")
    since = (bound.last_transition_time if bound else None) or now
    if not pod.status.container_statuses:
        return Next(Step.START, since + _time(pod, names.START_AFTER))
    container = pod.status.container_statuses[0]
    if container.state.running is None:
        ended = container.last_state.terminated
        finished = (ended.finished_at if ended else None) or now
        return Next(Step.START, finished + backoff(container.restart_count))
    started = container.state.running.started_at or now
    steps = []
    ready = pod.condition("Ready")
    if not container.ready or ((ready is None or ready.status != "True") and gates_open(pod)):
        steps.append(Next(Step.READY, started + _time(pod, names.READY_AFTER)))
    lasts = runs_for(pod)
    if lasts is not None:
        steps.append(Next(Step.BACK_OFF if _starts_again(pod) else Step.END, started + lasts))
    return min(steps, key=lambda each: each.at) if steps else None


def runs_for(pod: PodView) -> timedelta | None:
    """How long its containers run; None: for ever."""
    if names.RUN_FOR in pod.metadata.annotations:
        return _time(pod, names.RUN_FOR)
    of_job = any(owner.controller and owner.kind == "Job" for owner in pod.metadata.owner_references)
    return JOB_RUNS_FOR if of_job else None


def exit_code(pod: PodView) -> int:
    """What its containers end with."""
    given = pod.metadata.annotations.get(names.EXIT_CODE, "0")
    return int(given) & 255 if given.lstrip("-").isdigit() else 0


def gates_open(pod: PodView) -> bool:
    """Whether every readiness gate of the pod is true."""
    true = {each.type for each in pod.status.conditions if each.status == "True"}
    return all(gate.condition_type in true for gate in pod.spec.readiness_gates)


def backoff(restarts: int) -> timedelta:
    """How long containers wait that ended after so many restarts."""
    doublings = min(restarts, 10)
    return min(FIRST_BACKOFF * (1 << doublings), LONGEST_BACKOFF)


def _ending(pod: PodView, deadline: datetime) -> Next | None:
    grace = timedelta(seconds=pod.metadata.deletion_grace_period_seconds or 0)
    at = deadline - grace + min(_time(pod, names.STOP_AFTER), grace)
    if pod.metadata.finalizers and pod.status.phase not in ("Succeeded", "Failed"):
        return Next(Step.STOP, at)
    # With no grace left it has been removed already, and only finalizers hold it.
    return Next(Step.REMOVE, at) if grace or not pod.metadata.finalizers else None


def _starts_again(pod: PodView) -> bool:
    policy = pod.spec.restart_policy
    return policy == "Always" or (policy == "OnFailure" and exit_code(pod) != 0)


def _time(pod: PodView, name: str) -> timedelta:
    """A time a user wrote; what is none counts as nothing."""
    given = pod.metadata.annotations.get(name)
    try:
        return max(parse_duration(given), NONE) if given else NONE
    except ValueError:
        return NONE
