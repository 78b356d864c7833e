"""Runs Jobs: makes pods up to the parallelism, counts those that ended, and says when it is over.

Level-driven. One sync counts, judges, makes or deletes pods, and writes the status once; finalizers
of counted pods come off after that write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.batch.v1 import Job, JobCondition, JobStatus
from tiphys.api.core.v1 import EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec
from tiphys.client import (
    DONE,
    NORMAL,
    WARNING,
    ApiConnectionError,
    Controller,
    Expectations,
    RequeueAfter,
    Result,
    key_of,
)
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    claim,
    controller_of,
    index_by_controller,
    may_be_adopted_now,
    orphans_of,
)
from tiphys.controllers.common.podcontrol import PodControl, namespace_terminating, pod_from_template, slow_start
from tiphys.controllers.common.pods import is_active, is_ready, is_terminating
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.job import indexes, outcome, tracking
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

FIRST_BACKOFF: Final = timedelta(seconds=10)
LONGEST_BACKOFF: Final = timedelta(minutes=6)
BURST: Final = 500
MANAGED_BY_US: Final = "kubernetes.io/job-controller"


class JobController(Controller[ObjectName]):
    """The controller `job-controller`."""

    name = "job"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("job-controller")
        self._control = PodControl(context.client, self._recorder)
        self._jobs = context.informers.of(Job)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._jobs, self._pods))
        self._expectations: Expectations[ObjectName] = Expectations(context.clock)
        self._written: dict[ObjectName, str] = {}
        # Creations that got no answer may have been done: what pods there are is asked before the cache counts again.
        self._unanswered: set[ObjectName] = set()
        self._made: dict[ObjectName, str] = {}  # the newest version of a pod that the cache has to show by then
        index_by_controller(self._pods)
        self._jobs.add_handler(self._job_changed, lambda _, new: self._job_changed(new), self._job_deleted)
        self._pods.add_handler(self._pod_added, self._pod_updated, self._pod_deleted)

    # What changed

    def _job_changed(self, job: Job) -> None:
        self.queue.add(key_of(job))

    def _job_deleted(self, job: Job) -> None:
        self.queue.add(key_of(job))
        self.queue.add(_strays(job.metadata.namespace))

    def _job_key(self, pod: Pod) -> ObjectName | None:
        reference = controller_of(pod)
        if reference is None or reference.kind != Job.KIND:
            return None
        return ObjectName(pod.metadata.namespace, reference.name)

    def _pod_added(self, pod: Pod) -> None:
        key = self._job_key(pod)
        if key is not None:
            self._expectations.creation_observed(key)
            self._pod_updated(pod, pod)
        elif controller_of(pod) is None:
            self._queue_matching(pod)
        if self._is_stray(pod):
            self.queue.add(_strays(pod.metadata.namespace))

    def _pod_updated(self, old: Pod, pod: Pod) -> None:
        before, key = self._job_key(old), self._job_key(pod)
        if before is not None and before != key:
            self.queue.add(before)
            self.queue.add(_strays(pod.metadata.namespace))
        if may_be_adopted_now(old, pod):
            self._queue_matching(pod)
        if key is None:
            return
        if pod.metadata.deletion_timestamp is not None:
            self._expectations.deletion_observed(key, pod.metadata.uid)
        self.queue.add(key)

    def _queue_matching(self, pod: Pod) -> None:
        for job in self._jobs.lister.list(pod.metadata.namespace):
            selector = selector_of(job.spec.selector)
            if selector is not None and selector.matches(pod.metadata.labels):
                self.queue.add(key_of(job))

    def _is_stray(self, pod: Pod) -> bool:
        """Whether it waits to be counted by a Job that is not there (any more)."""
        if not tracking.has_finalizer(pod):
            return False
        reference = controller_of(pod)
        if reference is None:
            return True
        if reference.kind != Job.KIND:
            return False
        job = self._jobs.lister.get(ObjectName(pod.metadata.namespace, reference.name))
        return job is None or job.metadata.uid != reference.uid

    def _pod_deleted(self, pod: Pod) -> None:
        key = self._job_key(pod)
        if key is not None:
            self._expectations.deletion_observed(key, pod.metadata.uid)
            self.queue.add(key)

    # What is done about it

    async def sync(self, key: ObjectName) -> Result:
        """Take one Job a step further."""
        if key == _strays(key.namespace):
            await self._release_strays(key.namespace)
            return DONE
        job = self._jobs.lister.get(key)
        if job is None:
            self._expectations.forget(key)
            self._written.pop(key, None)
            self._unanswered.discard(key)
            self._made.pop(key, None)
            return DONE
        if job.spec.managed_by not in (None, MANAGED_BY_US):
            return DONE
        if not self._expectations.satisfied(key) or not self._jobs.has_seen(self._written.get(key, "")):
            return DONE
        if key in self._unanswered:
            await self._look(key, job)
        if not self._pods.has_seen(self._made.get(key, "")):
            return DONE
        pods = await self._claim(job)
        if outcome.is_finished(job):
            await self._release([pod for pod in pods if tracking.has_finalizer(pod)])
            return DONE
        return await self._step(key, job, pods)

    async def _step(self, key: ObjectName, job: Job, pods: Sequence[Pod]) -> Result:
        now = self.clock.now()
        if job.status.start_time is None and not job.spec.suspend:
            job = replace(job, status=replace(job.status, start_time=now.replace(microsecond=0)))
        target = outcome.find(job.status.conditions, outcome.SUCCESS_MET) or outcome.find(
            job.status.conditions, outcome.FAILURE_TARGET
        )
        counted = tracking.count(job, pods, finishing=target is not None)
        target = outcome.judge(job, counted, pods, now)
        job = replace(job, status=counted.status)
        active = [pod for pod in pods if is_active(pod)]
        made = 0
        wait: timedelta | None = None
        error: Exception | None = None
        if job.metadata.deletion_timestamp is None:
            if target is not None or job.spec.suspend:
                error = await self._delete(key, job, active)
                active = active if error is not None else []
            else:
                made, wait, error = await self._manage(key, job, pods, active)
        status = self._report(job, pods, active, len(active) + made, target, counted.complete, now)
        await self._write(key, job, status)
        await self._release(counted.release)
        if error is not None:
            raise error
        return self._next(job, wait, now)

    async def _look(self, key: ObjectName, job: Job) -> None:
        """Note how far the cache must be to show every pod the server has of the Job."""
        selector = str(selector_of(job.spec.selector) or "")
        there = await self._client.list(Pod, namespace=key.namespace, label_selector=selector)
        self._unanswered.discard(key)
        versions = [pod.metadata.resource_version for pod in there.items if self._job_key(pod) == key]
        self._made[key] = max(versions, key=int, default="")

    async def _claim(self, job: Job) -> list[Pod]:
        selector = selector_of(job.spec.selector)
        lister = self._pods.lister
        candidates = [
            *lister.by_index(BY_CONTROLLER, job.metadata.uid),
            *lister.by_index(BY_CONTROLLER, orphans_of(job.metadata.namespace)),
        ]
        return await claim(
            self._client,
            Pod,
            job,
            candidates,
            lambda pod: selector is not None and selector.matches(pod.metadata.labels),
            is_active,
            tracking.FINALIZER,
        )

    async def _manage(
        self, key: ObjectName, job: Job, pods: Sequence[Pod], active: Sequence[Pod]
    ) -> tuple[int, timedelta | None, Exception | None]:
        """Make or delete pods for the parallelism; (pods made minus deleted, wait of a back-off, first error)."""
        parallelism = job.spec.parallelism if job.spec.parallelism is not None else 1
        succeeded, _ = tracking.total(job.status)
        terminating = sum(is_terminating(pod) for pod in pods) if tracking.waits_for_end(job) else 0
        if job.spec.completions is None:
            wanted = len(active) if succeeded > 0 else parallelism
        else:
            wanted = min(parallelism, max(0, job.spec.completions - succeeded))
        if indexes.is_indexed(job):
            surplus = self._doubled(job, active)
            if surplus:
                error = await self._delete(key, job, surplus)
                return -len(surplus), None, error
        if len(active) > wanted:
            doomed = sorted(active, key=lambda pod: (is_ready(pod), pod.metadata.uid))[: len(active) - wanted]
            error = await self._delete(key, job, doomed)
            return -len(doomed), None, error
        missing = min(wanted - len(active) - terminating, BURST)
        if missing <= 0:
            return 0, None, None
        wait = backoff_left(job, pods, self.clock.now())
        if wait > timedelta(0):
            return 0, wait, None
        made, error = await self._create(key, job, pods, missing)
        return made, None, error

    def _doubled(self, job: Job, active: Sequence[Pod]) -> list[Pod]:
        """Active pods of indexes that have another, or that are done, or that do not exist."""
        over = indexes.completed(job) | indexes.failed(job)
        taken: set[int] = set()
        surplus = []
        for pod in sorted(active, key=lambda found: (not is_ready(found), found.metadata.uid)):
            index = indexes.index_of(pod)
            if index is None or index in over or index in taken or index >= (job.spec.completions or 0):
                surplus.append(pod)
            else:
                taken.add(index)
        return surplus

    async def _create(self, key: ObjectName, job: Job, pods: Sequence[Pod], count: int) -> tuple[int, Exception | None]:
        numbers = self._free_indexes(job, pods, count) if indexes.is_indexed(job) else [None] * count
        self._expectations.expect_creations(key, len(numbers))
        started = 0

        async def create(position: int) -> None:
            nonlocal started
            started += 1
            try:
                await self._control.create(pod_of(job, numbers[position], pods), job)
            except BaseException as error:
                self._expectations.creation_observed(key)
                if isinstance(error, ApiConnectionError):
                    self._unanswered.add(key)
                if isinstance(error, StatusError) and namespace_terminating(error):
                    return
                raise

        made, error = await slow_start(len(numbers), create)
        for _ in range(len(numbers) - started):
            self._expectations.creation_observed(key)
        return made, error

    def _free_indexes(self, job: Job, pods: Sequence[Pod], count: int) -> list[int | None]:
        """The lowest indexes without an active pod that are not over."""
        blocked = indexes.completed(job) | indexes.failed(job)
        waits = tracking.waits_for_end(job)
        for pod in pods:
            index = indexes.index_of(pod)
            if index is not None and (is_active(pod) or (waits and is_terminating(pod))):
                blocked.add(index)
        free: list[int | None] = []
        for index in range(job.spec.completions or 0):
            if len(free) == count:
                break
            if index not in blocked:
                free.append(index)
        return free

    async def _delete(self, key: ObjectName, job: Job, doomed: Sequence[Pod]) -> Exception | None:
        if not doomed:
            return None
        self._expectations.expect_deletions(key, [pod.metadata.uid for pod in doomed])

        async def delete(pod: Pod) -> None:
            try:
                await self._control.delete(pod, job)
            except BaseException:
                self._expectations.deletion_observed(key, pod.metadata.uid)
                raise

        results = await asyncio.gather(*(delete(pod) for pod in doomed), return_exceptions=True)
        return next((result for result in results if isinstance(result, Exception)), None)

    def _report(
        self,
        job: Job,
        pods: Sequence[Pod],
        active: Sequence[Pod],
        active_count: int,
        target: JobCondition | None,
        complete: bool,
        now: datetime,
    ) -> JobStatus:
        terminating = sum(is_terminating(pod) for pod in pods)
        conditions = list(job.status.conditions)
        if target is not None and target not in conditions:
            conditions.append(target)
        over = target is not None and complete and not active and not terminating
        if target is not None and over:
            conditions.append(outcome.final(target, now))
            self._announce(job, target)
        if target is None:
            conditions = self._suspension(job, conditions, now)
        done = over and target is not None and target.type == outcome.SUCCESS_MET
        suspended = bool(job.spec.suspend) and target is None
        return replace(
            job.status,
            start_time=None if suspended else job.status.start_time,
            conditions=tuple(conditions),
            active=active_count or None,
            ready=sum(is_ready(pod) for pod in active),
            terminating=terminating,
            completion_time=now.replace(microsecond=0) if done else job.status.completion_time,
        )

    def _suspension(self, job: Job, conditions: list[JobCondition], now: datetime) -> list[JobCondition]:
        known = next((found for found in conditions if found.type == outcome.SUSPENDED), None)
        if job.spec.suspend and (known is None or known.status != "True"):
            new = outcome.make(outcome.SUSPENDED, "True", "JobSuspended", "Job suspended", now)
            self._recorder.event(job, NORMAL, "Suspended", "Job suspended")
        elif not job.spec.suspend and known is not None and known.status == "True":
            new = outcome.make(outcome.SUSPENDED, "False", "JobResumed", "Job resumed", now)
            self._recorder.event(job, NORMAL, "Resumed", "Job resumed")
        else:
            return conditions
        return [*(found for found in conditions if found.type != outcome.SUSPENDED), new]

    def _announce(self, job: Job, target: JobCondition) -> None:
        if target.type == outcome.SUCCESS_MET:
            self._recorder.event(job, NORMAL, "Completed", "Job completed")
        else:
            self._recorder.event(job, WARNING, target.reason, target.message)

    async def _write(self, key: ObjectName, job: Job, status: JobStatus) -> None:
        current = self._jobs.lister.get(key)
        if current is not None and current.status == status:
            return
        with suppress(NotFoundError):
            written = await self._client.update_status(replace(job, status=status))
            self._written[key] = written.metadata.resource_version

    async def _release(self, pods: Sequence[Pod]) -> None:
        """Take the finalizer off pods that are counted."""

        async def release(pod: Pod) -> None:
            kept = [name for name in pod.metadata.finalizers if name != tracking.FINALIZER]
            meta = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "finalizers": kept}
            with suppress(NotFoundError):
                await self._client.patch(Pod, key_of(pod), {"metadata": meta})

        results = await asyncio.gather(*(release(pod) for pod in pods), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _release_strays(self, namespace: str) -> None:
        """Pods whose Job is gone are counted by nobody; they must not wait for it.

        The server is asked, not the cache: that of Jobs may lag behind that of pods.
        """
        strays = [pod for pod in self._pods.lister.list(namespace) if self._is_stray(pod)]
        owners = {(owner.name, owner.uid) for pod in strays if (owner := controller_of(pod)) is not None}
        alive = {uid for name, uid in owners if await self._lives(ObjectName(namespace, name), uid)}
        await self._release([pod for pod in strays if (owner := controller_of(pod)) is None or owner.uid not in alive])

    async def _lives(self, key: ObjectName, uid: str) -> bool:
        try:
            return (await self._client.get(Job, key)).metadata.uid == uid
        except NotFoundError:
            return False

    def _next(self, job: Job, wait: timedelta | None, now: datetime) -> Result:
        left = outcome.deadline_left(job, now)
        waits = [found for found in (wait, left) if found is not None and found > timedelta(0)]
        return RequeueAfter(min(waits)) if waits else DONE


def _strays(namespace: str) -> ObjectName:
    """The queue's key for the pods of a namespace that wait for Jobs that are gone; no Job has an empty name."""
    return ObjectName(namespace, "")


def backoff_left(job: Job, pods: Sequence[Pod], now: datetime) -> timedelta:
    """Time until a new pod may be made: 10 s after a failure, doubling with each to six minutes."""
    ends = sorted(end for pod in pods if tracking.has_failed(job, pod) for end in [_ended(pod)] if end is not None)
    if not ends:
        return timedelta(0)
    last_success = max(
        (end for pod in pods if pod.status.phase == "Succeeded" for end in [_ended(pod)] if end), default=None
    )
    recent = [end for end in ends if last_success is None or end > last_success]
    if not recent:
        return timedelta(0)
    wait = min(FIRST_BACKOFF * (1 << min(len(recent) - 1, 10)), LONGEST_BACKOFF)
    return recent[-1] + wait - now


def _ended(pod: Pod) -> datetime | None:
    """When the last of its containers ended, or when it was deleted."""
    ends = [
        status.state.terminated.finished_at
        for status in pod.status.container_statuses
        if status.state is not None and status.state.terminated is not None and status.state.terminated.finished_at
    ]
    if ends:
        return max(ends)
    ready = next((found for found in pod.status.conditions if found.type == "Ready"), None)
    if pod.metadata.deletion_timestamp is not None:
        return pod.metadata.deletion_timestamp
    if ready is not None and ready.last_transition_time is not None:
        return ready.last_transition_time
    return pod.metadata.creation_timestamp


def pod_of(job: Job, index: int | None, pods: Sequence[Pod]) -> Pod:
    """A new pod of the Job; with an index it carries the number in its name, labels, hostname and environment."""
    if index is None:
        return pod_from_template(
            job.spec.template,
            job,
            generate_name=f"{job.metadata.name}-",
            extra_finalizers=(tracking.FINALIZER,),
        )
    marks = {indexes.COMPLETION_INDEX: str(index)}
    annotations = dict(marks)
    if job.spec.backoff_limit_per_index is not None:
        failures = [
            indexes.failure_count(pod) + 1
            for pod in pods
            if indexes.index_of(pod) == index and tracking.has_failed(job, pod)
        ]
        annotations[indexes.FAILURE_COUNT] = str(max(failures, default=0))
    pod = pod_from_template(
        job.spec.template,
        job,
        generate_name=f"{job.metadata.name}-{index}-",
        extra_labels=marks,
        extra_annotations=annotations,
        extra_finalizers=(tracking.FINALIZER,),
    )
    return replace(pod, spec=_numbered(pod.spec, f"{job.metadata.name}-{index}"))


def _numbered(spec: PodSpec, hostname: str) -> PodSpec:
    source = EnvVarSource(field_ref=ObjectFieldSelector(field_path=f"metadata.labels['{indexes.COMPLETION_INDEX}']"))
    variable = EnvVar(name="JOB_COMPLETION_INDEX", value_from=source)

    def numbered(container: object) -> object:
        env = container.env  # type: ignore[attr-defined]
        if any(known.name == variable.name for known in env):
            return container
        return replace(container, env=(*env, variable))  # type: ignore[type-var]

    return replace(
        spec,
        hostname=hostname,
        containers=tuple(map(numbered, spec.containers)),
        init_containers=tuple(map(numbered, spec.init_containers)),
    )
