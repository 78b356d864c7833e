"""Rolls Deployments out: finds or makes the ReplicaSet of the current template and moves the pods to it.

Level-driven: each sync takes at most one step (make a set, scale a set, report) from the caches; the
change it makes brings the key back. https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from tiphys.api.apps.v1 import Deployment, DeploymentCondition, ReplicaSet
from tiphys.api.core.v1 import Pod
from tiphys.api.meta.v1 import LabelSelector, ObjectMeta
from tiphys.base.log import get_logger
from tiphys.client import DONE, NORMAL, WARNING, Controller, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.hashing import template_hash
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    claim,
    controller_of,
    controller_reference,
    index_by_controller,
    orphans_of,
)
from tiphys.controllers.common.podcontrol import namespace_terminating
from tiphys.controllers.common.pods import is_finished
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.deployment import progress, revisions, rolling, scaling
from tiphys.controllers.deployment.replicas import active, is_rolling, new_set_replicas, wanted
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)


class DeploymentController(Controller[ObjectName]):
    """The controller `deployment-controller`."""

    name = "deployment"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._deployments = context.informers.of(Deployment)
        self._sets = context.informers.of(ReplicaSet)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._deployments, self._sets, self._pods))
        self._recorder = context.recorder("deployment-controller")
        index_by_controller(self._sets)
        index_by_controller(self._pods)
        self._deployments.add_handler(self._queue, lambda _, new: self._queue(new), self._queue)
        self._sets.add_handler(self._set_changed, self._set_updated, self._set_changed)
        self._pods.add_handler(on_delete=self._pod_deleted)

    # What changed

    def _queue(self, deployment: Deployment) -> None:
        self.queue.add(key_of(deployment))

    def _owner_of(self, rs: ReplicaSet) -> Deployment | None:
        reference = controller_of(rs)
        if reference is None or reference.kind != Deployment.KIND:
            return None
        owner = self._deployments.lister.get(ObjectName(rs.metadata.namespace, reference.name))
        return owner if owner is not None and owner.metadata.uid == reference.uid else None

    def _set_changed(self, rs: ReplicaSet) -> None:
        owner = self._owner_of(rs)
        if owner is not None:
            self._queue(owner)
        elif controller_of(rs) is None:
            for deployment in self._deployments.lister.list(rs.metadata.namespace):
                selector = selector_of(deployment.spec.selector)
                if selector is not None and not selector.empty and selector.matches(rs.metadata.labels):
                    self._queue(deployment)

    def _set_updated(self, old: ReplicaSet, new: ReplicaSet) -> None:
        if controller_of(old) != controller_of(new):
            self._set_changed(old)
        self._set_changed(new)

    def _pod_deleted(self, pod: Pod) -> None:
        """Recreate waits for the last old pod to be gone."""
        reference = controller_of(pod)
        if reference is None or reference.kind != ReplicaSet.KIND:
            return
        rs = self._sets.lister.get(ObjectName(pod.metadata.namespace, reference.name))
        owner = self._owner_of(rs) if rs is not None else None
        if owner is not None and not is_rolling(owner):
            self._queue(owner)

    # What is done about it

    async def sync(self, key: ObjectName) -> Result:
        """Take the next step of one Deployment."""
        deployment = self._deployments.lister.get(key)
        if deployment is None:
            return DONE
        if deployment.spec.selector == LabelSelector():
            message = "This deployment is selecting all pods. A non-empty selector is required."
            self._recorder.event(deployment, WARNING, "SelectingAll", message)
            return DONE
        sets = await self._claim(deployment)
        if deployment.metadata.deletion_timestamp is not None:
            await self._report(deployment, sets, revisions.find_new(deployment, sets))
            return DONE
        deployment = await self._note_pause(deployment)
        if deployment.spec.paused:
            return await self._rescale(deployment, sets)
        if scaling.is_scaling(deployment, sets):
            return await self._rescale(deployment, sets)
        if is_rolling(deployment):
            return await self._roll(deployment, sets)
        return await self._recreate(deployment, sets)

    async def _claim(self, deployment: Deployment) -> list[ReplicaSet]:
        selector = selector_of(deployment.spec.selector)
        lister = self._sets.lister
        candidates = [
            *lister.by_index(BY_CONTROLLER, deployment.metadata.uid),
            *lister.by_index(BY_CONTROLLER, orphans_of(deployment.metadata.namespace)),
        ]
        return await claim(
            self._client,
            ReplicaSet,
            deployment,
            candidates,
            lambda rs: selector is not None and selector.matches(rs.metadata.labels),
        )

    async def _note_pause(self, deployment: Deployment) -> Deployment:
        """A pause stops the clock of the progress deadline; resuming starts it anew."""
        if not progress.has_deadline(deployment):
            return deployment
        current = progress.find(deployment.status.conditions, progress.PROGRESSING)
        if current is not None and current.reason == progress.TIMED_OUT:
            return deployment
        paused = current is not None and current.reason == progress.PAUSED
        if deployment.spec.paused and not paused:
            noted = ("Unknown", progress.PAUSED, "Deployment is paused")
        elif not deployment.spec.paused and paused:
            noted = ("Unknown", progress.RESUMED, "Deployment is resumed")
        else:
            return deployment
        return await self._put_condition(deployment, progress.make(progress.PROGRESSING, *noted, self.clock.now()))

    async def _put_condition(self, deployment: Deployment, condition: DeploymentCondition) -> Deployment:
        conditions = progress.put(deployment.status.conditions, condition)
        status = replace(deployment.status, conditions=conditions)
        return await self._client.update_status(replace(deployment, status=status))

    async def _roll(self, deployment: Deployment, sets: list[ReplicaSet]) -> Result:
        deployment, sets, new = await self._current(deployment, sets, create=True)
        olds = revisions.old_sets(sets, new)
        if new is not None:
            step = rolling.scale_new(deployment, olds, new)
            steps = [step] if step is not None else rolling.scale_old(deployment, olds, new)
            scaled = [await self._scale(deployment, rs, size) for rs, size in steps]
            if scaled:
                return await self._report(deployment, _merged(sets, scaled), _same(new, scaled))
        return await self._finish(deployment, sets, new)

    async def _recreate(self, deployment: Deployment, sets: list[ReplicaSet]) -> Result:
        deployment, sets, new = await self._current(deployment, sets, create=False)
        olds = revisions.old_sets(sets, new)
        scaled = [await self._scale(deployment, rs, 0) for rs in active(olds)]
        if scaled:
            return await self._report(deployment, _merged(sets, scaled), new)
        if self._old_pods_left(olds):
            return await self._report(deployment, sets, new)
        if new is None:
            deployment, sets, new = await self._current(deployment, sets, create=True)
        if new is not None and wanted(new) != wanted(deployment):
            new = await self._scale(deployment, new, wanted(deployment))
            return await self._report(deployment, _merged(sets, [new]), new)
        return await self._finish(deployment, sets, new)

    def _old_pods_left(self, olds: Sequence[ReplicaSet]) -> bool:
        return any(
            not is_finished(pod) for rs in olds for pod in self._pods.lister.by_index(BY_CONTROLLER, rs.metadata.uid)
        )

    async def _rescale(self, deployment: Deployment, sets: list[ReplicaSet]) -> Result:
        deployment, sets, new = await self._current(deployment, sets, create=False)
        olds = revisions.old_sets(sets, new)
        steps = scaling.scale_all(deployment, olds, new)
        scaled = [await self._scale(deployment, rs, size) for rs, size in steps]
        if deployment.spec.paused:
            await self._clean_up(deployment, olds)
        return await self._report(deployment, _merged(sets, scaled), _same(new, scaled))

    async def _finish(self, deployment: Deployment, sets: list[ReplicaSet], new: ReplicaSet | None) -> Result:
        if progress.is_complete(deployment, progress.status_of(deployment, sets, new, self.clock.now())):
            await self._clean_up(deployment, revisions.old_sets(sets, new))
        return await self._report(deployment, sets, new)

    # The set of the current template

    async def _current(
        self, deployment: Deployment, sets: list[ReplicaSet], *, create: bool
    ) -> tuple[Deployment, list[ReplicaSet], ReplicaSet | None]:
        """The Deployment, its sets and the one of its template, all with their revision annotations right."""
        new = revisions.find_new(deployment, sets)
        olds = revisions.old_sets(sets, new)
        number = max([revisions.revision_of(rs) for rs in olds], default=0) + 1
        if new is None:
            if not create:
                return deployment, sets, None
            new, deployment = await self._create(deployment, sets, number)
            return deployment, [*sets, new], new
        updated = revisions.set_annotations(deployment, new, number)
        if updated.spec.min_ready_seconds != deployment.spec.min_ready_seconds:
            updated = replace(updated, spec=replace(updated.spec, min_ready_seconds=deployment.spec.min_ready_seconds))
        if updated is not new:
            new = await self._client.update(updated)
        deployment = await self._annotate(
            deployment, new, progress.FOUND, f'Found new replica set "{new.metadata.name}"'
        )
        return deployment, _merged(sets, [new]), new

    async def _annotate(self, deployment: Deployment, new: ReplicaSet, reason: str, message: str) -> Deployment:
        """Write the revision, and the first Progressing condition, onto the Deployment when they are missing."""
        changed = deployment
        revision = new.metadata.annotations.get(revisions.REVISION, "")
        if deployment.metadata.annotations.get(revisions.REVISION) != revision:
            annotations = {**deployment.metadata.annotations, revisions.REVISION: revision}
            changed = replace(changed, metadata=replace(changed.metadata, annotations=annotations))
        has_condition = progress.find(deployment.status.conditions, progress.PROGRESSING) is not None
        if progress.has_deadline(deployment) and (not has_condition or reason == progress.CREATED):
            condition = progress.make(progress.PROGRESSING, "True", reason, message, self.clock.now())
            conditions = progress.put(changed.status.conditions, condition)
            changed = replace(changed, status=replace(changed.status, conditions=conditions))
        return await self._client.update_status(changed) if changed is not deployment else deployment

    async def _create(
        self, deployment: Deployment, sets: list[ReplicaSet], number: int
    ) -> tuple[ReplicaSet, Deployment]:
        hashed = template_hash(deployment.spec.template, deployment.status.collision_count)
        size = new_set_replicas(deployment, sets, None)
        owner = ObjectMeta(owner_references=(controller_reference(deployment),))
        wanted_set = revisions.new_replica_set(deployment, hashed, number, size, owner)
        try:
            new = await self._client.create(wanted_set)
        except AlreadyExistsError:
            new = await self._resolve_collision(deployment, wanted_set)
        except StatusError as error:
            if not namespace_terminating(error):
                await self._creation_failed(deployment, wanted_set, error)
            raise
        else:
            if size > 0:
                message = f"Scaled up replica set {new.metadata.name} from 0 to {size}"
                self._recorder.event(deployment, NORMAL, "ScalingReplicaSet", message)
        message = f'Created new replica set "{new.metadata.name}"'
        return new, await self._annotate(deployment, new, progress.CREATED, message)

    async def _creation_failed(self, deployment: Deployment, wanted_set: ReplicaSet, error: StatusError) -> None:
        message = f'Failed to create new replica set "{wanted_set.metadata.name}": {error.message}'
        self._recorder.event(deployment, WARNING, progress.CREATE_FAILED, message)
        if progress.has_deadline(deployment):
            failed = progress.make(progress.PROGRESSING, "False", progress.CREATE_FAILED, message, self.clock.now())
            await self._put_condition(deployment, failed)

    async def _resolve_collision(self, deployment: Deployment, wanted_set: ReplicaSet) -> ReplicaSet:
        """The name is taken: by our own earlier creation, which the cache lacks, or by a hash collision.

        A collision is counted, which changes the next hash; raises the AlreadyExistsError so that the
        key comes back.
        """
        found = await self._client.get(ReplicaSet, key_of(wanted_set))
        reference = controller_of(found)
        ours = reference is not None and reference.uid == deployment.metadata.uid
        if ours and revisions.find_new(deployment, [found]) is not None:
            return found
        count = (deployment.status.collision_count or 0) + 1
        status = replace(deployment.status, collision_count=count)
        await self._client.update_status(replace(deployment, status=status))
        raise AlreadyExistsError({"message": f"replica set {found.metadata.name} is of another template", "code": 409})

    # Scaling, cleaning up, reporting

    async def _scale(self, deployment: Deployment, rs: ReplicaSet, size: int) -> ReplicaSet:
        """Give `rs` its size and note the Deployment's in its annotations."""
        annotations = {**rs.metadata.annotations, **revisions.scale_annotations(deployment)}
        if wanted(rs) == size and annotations == dict(rs.metadata.annotations):
            return rs
        updated = await self._client.update(
            replace(rs, metadata=replace(rs.metadata, annotations=annotations), spec=replace(rs.spec, replicas=size))
        )
        if wanted(rs) != size:
            direction = "up" if wanted(rs) < size else "down"
            message = f"Scaled {direction} replica set {rs.metadata.name} from {wanted(rs)} to {size}"
            self._recorder.event(deployment, NORMAL, "ScalingReplicaSet", message)
        return updated

    async def _clean_up(self, deployment: Deployment, olds: Sequence[ReplicaSet]) -> None:
        for rs in revisions.expired(deployment, olds):
            try:
                await self._client.delete(ReplicaSet, key_of(rs))
            except NotFoundError:
                continue

    async def _report(self, deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet | None) -> Result:
        now = self.clock.now()
        status = progress.status_of(deployment, sets, new, now)
        if not deployment.spec.paused and deployment.metadata.deletion_timestamp is None:
            failure = progress.replica_failure(sets, new)
            status = progress.with_progress(deployment, status, new, failure, now)
        if status != deployment.status:
            try:
                deployment = await self._client.update_status(replace(deployment, status=status))
            except NotFoundError:
                return DONE
        if deployment.spec.paused or progress.is_complete(deployment, status):
            return DONE
        left = progress.deadline_left(deployment, now)
        return RequeueAfter(left + timedelta(seconds=1)) if left is not None and left > timedelta(0) else DONE


def _merged(sets: Sequence[ReplicaSet], changed: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """`sets` with newer versions of some of them."""
    newer = {rs.metadata.uid: rs for rs in changed}
    return [newer.get(rs.metadata.uid, rs) for rs in sets]


def _same(new: ReplicaSet | None, changed: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The newest version of `new`."""
    return next((rs for rs in changed if new is not None and rs.metadata.uid == new.metadata.uid), new)
