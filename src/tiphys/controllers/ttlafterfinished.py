"""Deletes finished Jobs once `ttlSecondsAfterFinished` has elapsed.

Level-driven: each decision reads only the cache and the clock, so lost, repeated or
reordered events are harmless. https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta

from tiphys.api.batch.v1 import Job
from tiphys.client import DONE, Controller, Preconditions, RequeueAfter, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


def finish_time(job: Job) -> datetime | None:
    """When the Job completed or failed; None while it has not."""
    for condition in job.status.conditions:
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            return condition.last_transition_time
    return None


def time_left(job: Job, now: datetime) -> timedelta | None:
    """Time until `job` may be deleted (zero or less: overdue); None means never."""
    finished_at = finish_time(job)
    if finished_at is None or job.spec.ttl_seconds_after_finished is None:
        return None
    return finished_at + timedelta(seconds=job.spec.ttl_seconds_after_finished) - now


class TTLAfterFinishedController(Controller[ObjectName]):
    """The controller `ttl-after-finished-controller`."""

    name = "ttl_jobs_to_delete"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._jobs = context.informers.of(Job)
        super().__init__(context.clock, (self._jobs,))
        enqueue(self.queue, self._jobs)

    async def sync(self, key: ObjectName) -> Result:
        """Delete one Job when its time has come."""
        job = self._jobs.lister.get(key)
        if job is None or job.metadata.deletion_timestamp is not None:
            return DONE
        left = time_left(job, self.clock.now())
        if left is None:
            return DONE
        if left > timedelta(0):
            return RequeueAfter(left)
        # The cache may lag a TTL extension: delete only the version judged here. A stale version
        # raises ConflictError, which the worker requeues with back-off.
        only_if = Preconditions(uid=job.metadata.uid, resource_version=job.metadata.resource_version)
        with suppress(NotFoundError):  # already gone is the goal
            await self._client.delete(Job, key, only_if=only_if, propagation="Foreground")
        return DONE
