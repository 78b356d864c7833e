"""When a Job is over, and what its conditions say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.batch.v1 import Job, JobCondition, JobStatus
from tiphys.api.core.v1 import Pod
from tiphys.controllers.common.pods import is_active
from tiphys.controllers.job import indexes, policy, tracking

COMPLETE: Final = "Complete"
FAILED: Final = "Failed"
SUSPENDED: Final = "Suspended"
# Said as soon as the outcome is clear; Complete and Failed follow when no pod is left.
SUCCESS_MET: Final = "SuccessCriteriaMet"
FAILURE_TARGET: Final = "FailureTarget"


def find(conditions: Iterable[JobCondition], type_: str) -> JobCondition | None:
    """The condition of a type that is True."""
    return next((found for found in conditions if found.type == type_ and found.status == "True"), None)


def is_finished(job: Job) -> bool:
    """Whether the Job is over for good."""
    return find(job.status.conditions, COMPLETE) is not None or find(job.status.conditions, FAILED) is not None


def make(type_: str, status: str, reason: str, message: str, now: datetime) -> JobCondition:
    """A condition of now."""
    moment = now.replace(microsecond=0)
    return JobCondition(
        type=type_, status=status, reason=reason, message=message, last_probe_time=moment, last_transition_time=moment
    )


def judge(job: Job, counted: tracking.Count, pods: Sequence[Pod], now: datetime) -> JobCondition | None:
    """SuccessCriteriaMet or FailureTarget when the outcome is clear; None while it is open."""
    known = find(job.status.conditions, SUCCESS_MET) or find(job.status.conditions, FAILURE_TARGET)
    if known is not None:
        return known
    return _failure(job, counted, pods, now) or _success(job, counted.status, pods, now)


def _failure(job: Job, counted: tracking.Count, pods: Sequence[Pod], now: datetime) -> JobCondition | None:
    status = counted.status
    if counted.fail_job:
        return make(FAILURE_TARGET, "True", "PodFailurePolicy", counted.fail_job, now)
    _, failures = tracking.total(status)
    limit = job.spec.backoff_limit if job.spec.backoff_limit is not None else 6
    if failures > limit or _restarted_too_often(job, pods, limit):
        message = "Job has reached the specified backoff limit"
        return make(FAILURE_TARGET, "True", "BackoffLimitExceeded", message, now)
    left = deadline_left(job, now)
    if left is not None and left <= timedelta(0):
        message = "Job was active longer than specified deadline"
        return make(FAILURE_TARGET, "True", "DeadlineExceeded", message, now)
    lost = indexes.parse(status.failed_indexes or "", job.spec.completions or 0)
    if job.spec.max_failed_indexes is not None and len(lost) > job.spec.max_failed_indexes:
        message = "Job has exceeded the specified maximal number of failed indexes"
        return make(FAILURE_TARGET, "True", "MaxFailedIndexesExceeded", message, now)
    done = indexes.parse(status.completed_indexes, job.spec.completions or 0)
    if lost and indexes.is_indexed(job) and len(lost) + len(done) >= (job.spec.completions or 0):
        return make(FAILURE_TARGET, "True", "FailedIndexes", "Job has failed indexes", now)
    return None


def _success(job: Job, status: JobStatus, pods: Sequence[Pod], now: datetime) -> JobCondition | None:
    succeeded, _ = tracking.total(status)
    if indexes.is_indexed(job):
        done = indexes.parse(status.completed_indexes, job.spec.completions or 0)
        rule = policy.success_rule(job, done)
        if rule is not None:
            return make(SUCCESS_MET, "True", "SuccessPolicy", f"Matched rules at index {rule}", now)
    completions = job.spec.completions
    if completions is None:
        # A work queue is done when one pod says so and the others have ended too.
        enough = succeeded > 0 and not any(is_active(pod) for pod in pods)
    else:
        enough = succeeded >= completions
    if job.spec.suspend or not enough:
        return None
    return make(SUCCESS_MET, "True", "CompletionsReached", "Reached expected number of succeeded pods", now)


def _restarted_too_often(job: Job, pods: Sequence[Pod], limit: int) -> bool:
    """With restartPolicy OnFailure the kubelet retries in place: its restarts count."""
    if job.spec.template.spec.restart_policy != "OnFailure":
        return False
    restarts = sum(
        status.restart_count
        for pod in pods
        if pod.status.phase in ("Running", "Pending")
        for status in (*pod.status.container_statuses, *pod.status.init_container_statuses)
    )
    return restarts > 0 if limit == 0 else restarts >= limit


def deadline_left(job: Job, now: datetime) -> timedelta | None:
    """Time until `activeDeadlineSeconds` is over; None without one."""
    seconds = job.spec.active_deadline_seconds
    if seconds is None or job.status.start_time is None or job.spec.suspend:
        return None
    return job.status.start_time + timedelta(seconds=seconds) - now


def final(target: JobCondition, now: datetime) -> JobCondition:
    """What follows when no pod is left."""
    type_ = COMPLETE if target.type == SUCCESS_MET else FAILED
    return make(type_, "True", target.reason, target.message, now)
