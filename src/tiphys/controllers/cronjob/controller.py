"""Starts the Jobs of CronJobs on time, watches those that run, and deletes old ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec.structs import replace

from tiphys.api.batch.v1 import CronJob, CronJobStatus, Job
from tiphys.api.core.v1 import ObjectReference
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import DONE, NORMAL, WARNING, Controller, RequeueAfter, Result, enqueue, key_of, reference_to
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    controlled_by,
    controller_of,
    controller_reference,
    index_by_controller,
)
from tiphys.controllers.common.podcontrol import namespace_terminating
from tiphys.controllers.cronjob.schedule import Schedule, due, parse_schedule
from tiphys.controllers.job import outcome
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

SCHEDULED: Final = "batch.kubernetes.io/cronjob-scheduled-timestamp"
# Timers may fire a little early; a Job must not start before its time.
SLACK: Final = timedelta(milliseconds=100)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class CronJobController(Controller[ObjectName]):
    """The controller `cronjob-controller`."""

    name = "cronjob"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("cronjob-controller")
        self._crons = context.informers.of(CronJob)
        self._jobs = context.informers.of(Job)
        super().__init__(context.clock, (self._crons, self._jobs))
        index_by_controller(self._jobs)
        self._written: dict[ObjectName, str] = {}
        enqueue(self.queue, self._crons)
        self._jobs.add_handler(self._job_changed, lambda _, new: self._job_changed(new), self._job_changed)

    def _job_changed(self, job: Job) -> None:
        reference = controller_of(job)
        if reference is not None and reference.kind == CronJob.KIND:
            self.queue.add(ObjectName(job.metadata.namespace, reference.name))

    async def sync(self, key: ObjectName) -> Result:
        """Look at one CronJob: its running Jobs, its old ones, and whether it is time."""
        cron = self._crons.lister.get(key)
        if cron is None or not self._crons.has_seen(self._written.get(key, "")):
            return DONE
        jobs = self._jobs.lister.by_index(BY_CONTROLLER, cron.metadata.uid)
        await self._clean_up(cron, jobs)
        status = self._look_at_jobs(cron, jobs)
        status, result = await self._run_if_due(cron, status)
        if status != cron.status:
            with suppress(NotFoundError):
                written = await self._client.update_status(replace(cron, status=status))
                self._written[key] = written.metadata.resource_version
        return result

    def _look_at_jobs(self, cron: CronJob, jobs: Sequence[Job]) -> CronJobStatus:
        """The status with the list of active Jobs and the last success brought up to date."""
        status = cron.status
        active = {reference.uid: reference for reference in status.active}
        by_uid = {job.metadata.uid: job for job in jobs}
        last = status.last_successful_time
        for job in jobs:
            uid = job.metadata.uid
            complete = outcome.find(job.status.conditions, outcome.COMPLETE)
            if outcome.is_finished(job):
                if active.pop(uid, None) is not None:
                    kind = outcome.COMPLETE if complete else outcome.FAILED
                    message = f"Saw completed job: {job.metadata.name}, condition: {kind}"
                    self._recorder.event(cron, NORMAL, "SawCompletedJob", message)
            elif uid not in active:
                # Somebody made it in our name, or the write of our status was lost: it is not counted as active.
                message = f"Saw a job that the controller did not create or forgot: {job.metadata.name}"
                self._recorder.event(cron, WARNING, "UnexpectedJob", message)
            finished = job.status.completion_time
            if complete is not None and finished is not None and (last is None or finished > last):
                last = finished
        for uid, reference in list(active.items()):
            if uid not in by_uid:
                message = f"Active job went missing: {reference.name}"
                self._recorder.event(cron, NORMAL, "MissingJob", message)
                del active[uid]
        return replace(status, active=tuple(active.values()), last_successful_time=last)

    async def _run_if_due(self, cron: CronJob, status: CronJobStatus) -> tuple[CronJobStatus, Result]:
        if cron.metadata.deletion_timestamp is not None or cron.spec.suspend:
            return status, DONE
        try:
            schedule = parse_schedule(cron.spec.schedule, zone_of(cron))
        except ZoneInfoNotFoundError:
            message = f'invalid timeZone: "{cron.spec.time_zone}": unknown time zone {cron.spec.time_zone}'
            self._recorder.event(cron, WARNING, "UnknownTimeZone", message)
            return status, DONE
        except ValueError as error:
            message = f"unparseable schedule: {cron.spec.schedule} : {error}"
            self._recorder.event(cron, WARNING, "UnparseableSchedule", message)
            return status, DONE
        now = self.clock.now()
        since = status.last_schedule_time or cron.metadata.creation_timestamp or now
        seconds = cron.spec.starting_deadline_seconds
        deadline = timedelta(seconds=seconds) if seconds is not None else None
        moment, missed = due(schedule, since, now, deadline)
        if missed > 100:
            advice = "Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            message = f"too many missed start times: {missed}. {advice}"
            self._recorder.event(cron, WARNING, "TooManyMissedTimes", message)
        wait = self._until_next(schedule, now)
        if moment is None:
            return status, wait
        if cron.spec.concurrency_policy == "Forbid" and status.active:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._recorder.event(cron, NORMAL, "JobAlreadyActive", message)
            return status, wait
        if cron.spec.concurrency_policy == "Replace":
            status = await self._delete_active(cron, status)
        return await self._start(cron, status, moment), wait

    def _until_next(self, schedule: Schedule, now: datetime) -> Result:
        moment = schedule.after(now)
        return RequeueAfter(moment - now + SLACK) if moment is not None else DONE

    async def _start(self, cron: CronJob, status: CronJobStatus, moment: datetime) -> CronJobStatus:
        wanted = job_of(cron, moment)
        try:
            job = await self._client.create(wanted)
        except AlreadyExistsError:
            job = await self._client.get(Job, key_of(wanted))
            if not controlled_by(job, cron):
                return status
        except StatusError as error:
            if not namespace_terminating(error):
                self._recorder.event(cron, WARNING, "FailedCreate", f"Error creating job: {error.message}")
            raise
        else:
            self._recorder.event(cron, NORMAL, "SuccessfulCreate", f"Created job {job.metadata.name}")
        active = {reference.uid: reference for reference in status.active}
        if not outcome.is_finished(job):
            active[job.metadata.uid] = reference_to(job)
        return replace(status, active=tuple(active.values()), last_schedule_time=moment)

    async def _delete_active(self, cron: CronJob, status: CronJobStatus) -> CronJobStatus:
        for reference in status.active:
            await self._delete(cron, reference)
        return replace(status, active=())

    async def _delete(self, cron: CronJob, job: Job | ObjectReference) -> None:
        if isinstance(job, ObjectReference):
            key = ObjectName(job.namespace or cron.metadata.namespace, job.name)
        else:
            key = key_of(job)
        with suppress(NotFoundError):
            await self._client.delete(Job, key, propagation="Background")
            self._recorder.event(cron, NORMAL, "SuccessfulDelete", f"Deleted job {key.name}")

    async def _clean_up(self, cron: CronJob, jobs: Sequence[Job]) -> None:
        """Delete finished Jobs beyond the limits, oldest first."""
        for type_, limit in (
            (outcome.COMPLETE, cron.spec.successful_jobs_history_limit),
            (outcome.FAILED, cron.spec.failed_jobs_history_limit),
        ):
            if limit is None:
                continue
            ended = [job for job in jobs if outcome.find(job.status.conditions, type_) is not None]
            ended.sort(key=lambda job: (job.status.start_time or _EPOCH, job.metadata.name))
            for job in ended[: max(0, len(ended) - limit)]:
                await self._delete(cron, job)


def zone_of(cron: CronJob) -> tzinfo:
    """The time zone of the schedule. Raises ZoneInfoNotFoundError."""
    try:
        return ZoneInfo(cron.spec.time_zone) if cron.spec.time_zone else UTC
    except (ValueError, OSError) as error:
        raise ZoneInfoNotFoundError(str(error)) from error


def job_of(cron: CronJob, moment: datetime) -> Job:
    """The Job for one time; its name is the time's, so that one time never has two Jobs."""
    template = cron.spec.job_template
    meta = template.metadata
    stamp = moment.astimezone(zone_of(cron)).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Job(
        metadata=ObjectMeta(
            name=f"{cron.metadata.name}-{int(moment.timestamp()) // 60}",
            namespace=cron.metadata.namespace,
            labels=meta.labels,
            annotations={**meta.annotations, SCHEDULED: stamp},
            owner_references=(controller_reference(cron),),
        ),
        spec=template.spec,
    )
