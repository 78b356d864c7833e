"""Counting ended pods exactly once, whatever is lost in between. Pure.

A pod carries a finalizer until it is counted, and its uid passes through the status:

    pod ends          ──► uid into uncountedTerminatedPods          (status write 1)
    finalizer removed ──► uid out, counter up                       (status write 2)

A crash between any two steps leaves a state from which the next sync goes on: a uid in the list
whose pod has no finalizer any more is counted, one whose pod still has it waits. Completed indexes
need no list: a set counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from tiphys.api.batch.v1 import Job, JobStatus, UncountedTerminatedPods
from tiphys.api.core.v1 import Pod
from tiphys.controllers.job import indexes, policy

FINALIZER: Final = "batch.kubernetes.io/job-tracking"
# At most so many uids are in the status at a time: it must stay small.
MAX_UNCOUNTED: Final = 500


@dataclass(slots=True)
class Count:
    """The new status, and the pods that may lose their finalizer once it is written."""

    status: JobStatus
    release: list[Pod] = field(default_factory=list)
    fail_job: str = ""  # the message of a FailJob rule that matched
    complete: bool = True  # nothing is left to count


def has_finalizer(pod: Pod) -> bool:
    """Whether the pod waits to be counted."""
    return FINALIZER in pod.metadata.finalizers


def waits_for_end(job: Job) -> bool:
    """Whether a pod being deleted counts only when it has really ended."""
    return job.spec.pod_failure_policy is not None or job.spec.pod_replacement_policy == "Failed"


def has_failed(job: Job, pod: Pod) -> bool:
    """Whether a pod counts as failed."""
    if pod.status.phase == "Failed":
        return True
    return pod.metadata.deletion_timestamp is not None and pod.status.phase != "Succeeded" and not waits_for_end(job)


def count(job: Job, pods: Sequence[Pod], *, finishing: bool) -> Count:
    """Take what ended into the status. `finishing`: the Job is over, so pods that still run count as failed too."""
    uncounted = job.status.uncounted_terminated_pods or UncountedTerminatedPods()
    waiting = {pod.metadata.uid for pod in pods if has_finalizer(pod)}
    succeeded = (job.status.succeeded or 0) + sum(uid not in waiting for uid in uncounted.succeeded)
    failures = (job.status.failed or 0) + sum(uid not in waiting for uid in uncounted.failed)
    list_succeeded = [uid for uid in uncounted.succeeded if uid in waiting]
    list_failed = [uid for uid in uncounted.failed if uid in waiting]
    done, lost = indexes.completed(job), indexes.failed(job)
    result = Count(job.status)
    known = {*list_succeeded, *list_failed}
    for pod in pods:
        if not has_finalizer(pod):
            continue
        uid = pod.metadata.uid
        if uid in known:
            result.release.append(pod)
            result.complete = False
            continue
        ended_well = pod.status.phase == "Succeeded"
        if not ended_well and not has_failed(job, pod) and not (finishing and pod.metadata.deletion_timestamp):
            result.complete = False
            continue
        if len(list_succeeded) + len(list_failed) >= MAX_UNCOUNTED:
            result.complete = False
            break
        action, message = ("Count", "") if ended_well else policy.action_for(job, pod)
        index = indexes.index_of(pod)
        if action == "FailJob":
            result.fail_job = result.fail_job or message
        if _is_counted_by_index(job) and not ended_well and not finishing:
            kept = index is None or not _may_release(job, pod, pods, action, index, done, lost)
            if kept:
                result.complete = False
                continue
        if ended_well and indexes.is_indexed(job):
            if index is not None and index < (job.spec.completions or 0) and index not in lost:
                done.add(index)
        elif ended_well:
            list_succeeded.append(uid)
            result.complete = False
        elif action != "Ignore":
            list_failed.append(uid)
            result.complete = False
        result.release.append(pod)
    if indexes.is_indexed(job):
        succeeded = len(done)
    result.status = replace(
        job.status,
        succeeded=succeeded or None,
        failed=failures or None,
        uncounted_terminated_pods=UncountedTerminatedPods(succeeded=tuple(list_succeeded), failed=tuple(list_failed)),
        completed_indexes=indexes.format_indexes(done),
        failed_indexes=indexes.format_indexes(lost) if job.spec.backoff_limit_per_index is not None else None,
    )
    return result


def _is_counted_by_index(job: Job) -> bool:
    return indexes.is_indexed(job) and job.spec.backoff_limit_per_index is not None


def _may_release(
    job: Job, pod: Pod, pods: Sequence[Pod], action: str, index: int, done: set[int], lost: set[int]
) -> bool:
    """With a back-off limit for each index, a failed pod stays until its successor knows how often the index failed.

    An index that failed too often, or that a FailIndex rule names, is lost; its pods are let go.
    """
    if index in done or index in lost:
        return True
    used = indexes.failure_count(pod) + (action != "Ignore")
    if action == "FailIndex" or used > (job.spec.backoff_limit_per_index or 0):
        lost.add(index)
        return True
    return any(
        indexes.index_of(other) == index
        and other.metadata.uid != pod.metadata.uid
        and indexes.failure_count(other) >= used
        for other in pods
    )


def total(status: JobStatus) -> tuple[int, int]:
    """(succeeded, failed) with those that are ended but not yet counted."""
    uncounted = status.uncounted_terminated_pods or UncountedTerminatedPods()
    return (
        (status.succeeded or 0) + len(uncounted.succeeded),
        (status.failed or 0) + len(uncounted.failed),
    )
