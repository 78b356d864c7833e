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
    """Take what ended into the status. `finishing`: the Job is over, so pods being deleted count as failed already."""
    uncounted = job.status.uncounted_terminated_pods or UncountedTerminatedPods()
    waiting = {pod.metadata.uid for pod in pods if has_finalizer(pod)}
    tally = _Tally(
        job=job,
        pods=pods,
        finishing=finishing,
        succeeded=[uid for uid in uncounted.succeeded if uid in waiting],
        failed=[uid for uid in uncounted.failed if uid in waiting],
        done=indexes.completed(job),
        lost=indexes.failed(job),
        result=Count(job.status),
    )
    for pod in pods:
        if has_finalizer(pod):
            tally.take(pod)
    # A uid in the list whose pod has lost its finalizer has been let go: now it is counted.
    successes = (job.status.succeeded or 0) + sum(uid not in waiting for uid in uncounted.succeeded)
    failures = (job.status.failed or 0) + sum(uid not in waiting for uid in uncounted.failed)
    if indexes.is_indexed(job):
        successes = len(tally.done)
    limited = job.spec.backoff_limit_per_index is not None
    tally.result.status = replace(
        job.status,
        succeeded=successes or None,
        failed=failures or None,
        uncounted_terminated_pods=UncountedTerminatedPods(succeeded=tuple(tally.succeeded), failed=tuple(tally.failed)),
        completed_indexes=indexes.format_indexes(tally.done),
        failed_indexes=indexes.format_indexes(tally.lost) if limited else None,
    )
    return tally.result


@dataclass(slots=True, kw_only=True)
class _Tally:
    """The lists of the status while they are being brought up to date."""

    job: Job
    pods: Sequence[Pod]
    finishing: bool
    succeeded: list[str]  # uids that are ended and not counted
    failed: list[str]
    done: set[int]  # completion indexes
    lost: set[int]
    result: Count

    def take(self, pod: Pod) -> None:
        """Note one pod that has its finalizer."""
        if pod.metadata.uid in self.succeeded or pod.metadata.uid in self.failed:
            self.result.release.append(pod)
            self.result.complete = False
        elif pod.status.phase == "Succeeded":
            self._succeeded(pod)
        elif has_failed(self.job, pod) or (self.finishing and pod.metadata.deletion_timestamp is not None):
            self._failed(pod)
        else:
            self.result.complete = False

    def _succeeded(self, pod: Pod) -> None:
        if not indexes.is_indexed(self.job):
            self._list(self.succeeded, pod)
            return
        index = indexes.index_of(pod)
        if index is not None and index < (self.job.spec.completions or 0) and index not in self.lost:
            self.done.add(index)
        self.result.release.append(pod)

    def _failed(self, pod: Pod) -> None:
        action, message = policy.action_for(self.job, pod)
        if action == "FailJob":
            self.result.fail_job = self.result.fail_job or message
        index = indexes.index_of(pod)
        if _is_counted_by_index(self.job) and not self.finishing:
            may_go = index is not None and _may_release(self.job, pod, self.pods, action, index, self.done, self.lost)
            if not may_go:
                self.result.complete = False
                return
        if action == "Ignore":
            self.result.release.append(pod)
        else:
            self._list(self.failed, pod)

    def _list(self, uids: list[str], pod: Pod) -> None:
        self.result.complete = False
        if len(self.succeeded) + len(self.failed) < MAX_UNCOUNTED:
            uids.append(pod.metadata.uid)
            self.result.release.append(pod)


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
