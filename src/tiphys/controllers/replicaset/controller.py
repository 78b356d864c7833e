"""Keeps the number of a ReplicaSet's active pods equal to `spec.replicas`.

Level-driven: each sync claims the pods that match, compares their number with the wanted one and
creates or deletes the difference. Expectations keep it from acting twice on a cache that lags.
https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from msgspec.structs import replace

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.client import DONE, Controller, Expectations, Object, RequeueAfter, Result, key_of
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    claim,
    controlled_by,
    controller_of,
    index_by_controller,
    may_be_adopted_now,
    orphans_of,
)
from tiphys.controllers.common.podcontrol import PodControl, namespace_terminating, pod_from_template, slow_start
from tiphys.controllers.common.pods import available_in, choose_for_deletion, is_active, is_finished
from tiphys.controllers.replicaset import status
from tiphys.controllers.replicaset.kinds import ReplicaKind
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

R = TypeVar("R", bound=Object)

# One sync creates or deletes at most so many, so that one huge set does not starve the others.
BURST_REPLICAS: Final = 500
LARGE: Final = 50  # replicas
SECONDS_A_REPLICA: Final = 0.0002


class ReplicaSetController(Controller[ObjectName], Generic[R]):
    """The controller of one of the two kinds."""

    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext, kind: ReplicaKind[R]) -> None:
        self.name = kind.queue_name
        self._kind = kind
        self._client = context.client
        self._sets = context.informers.of(kind.kind)
        self._pods = context.informers.of(Pod)
        super().__init__(context.clock, (self._sets, self._pods))
        self._recorder = context.recorder(kind.component)
        self._control = PodControl(context.client, self._recorder)
        self._expectations: Expectations[ObjectName] = Expectations(context.clock)
        index_by_controller(self._pods)
        index_by_controller(self._sets)
        self._sets.add_handler(self._set_changed, self._set_updated, self._set_deleted)
        self._pods.add_handler(self._pod_added, self._pod_updated, self._pod_deleted)

    # What changed

    def _set_changed(self, owner: R) -> None:
        self.queue.add(key_of(owner))

    def _set_updated(self, _: R, owner: R) -> None:
        self.queue.add(key_of(owner))

    def _set_deleted(self, owner: R) -> None:
        # A successor under the same name starts without the old one's expectations.
        self._expectations.forget(key_of(owner))
        self.queue.add(key_of(owner))

    def _owner_of(self, pod: Pod) -> R | None:
        reference = controller_of(pod)
        if reference is None or reference.kind != self._kind.kind.KIND:  # type: ignore[attr-defined]
            return None
        owner = self._sets.lister.get(ObjectName(pod.metadata.namespace, reference.name))
        return owner if owner is not None and owner.metadata.uid == reference.uid else None

    def _queue_matching(self, pod: Pod) -> None:
        for owner in self._sets.lister.list(pod.metadata.namespace):
            selector = self._kind.selector(owner)
            if selector is not None and selector.matches(pod.metadata.labels):
                self.queue.add(key_of(owner))

    def _pod_added(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp is not None:
            self._pod_deleted(pod)
            return
        owner = self._owner_of(pod)
        if owner is not None:
            self._expectations.creation_observed(key_of(owner))
            self.queue.add(key_of(owner))
        elif controller_of(pod) is None:
            self._queue_matching(pod)

    def _pod_updated(self, old: Pod, new: Pod) -> None:
        if new.metadata.deletion_timestamp is not None:
            self._pod_deleted(new)
            return
        before = self._owner_of(old)
        owner = self._owner_of(new)
        if before is not None and before is not owner:
            self.queue.add(key_of(before))
        if owner is not None:
            self.queue.add_after(key_of(owner), self._patience(owner))
        elif may_be_adopted_now(old, new):
            self._queue_matching(new)

    def _patience(self, owner: R) -> float:
        """Seconds in which changes of a set's pods are taken together: each look counts all of them."""
        spec: Any = owner.spec  # type: ignore[attr-defined]
        return (spec.replicas or 0) * SECONDS_A_REPLICA if (spec.replicas or 0) >= LARGE else 0.0

    def _pod_deleted(self, pod: Pod) -> None:
        owner = self._owner_of(pod)
        if owner is not None:
            self._expectations.deletion_observed(key_of(owner), pod.metadata.uid)
            self.queue.add(key_of(owner))

    # What is done about it

    async def sync(self, key: ObjectName) -> Result:
        """Bring one set to its number of pods and report."""
        owner = self._sets.lister.get(key)
        if owner is None:
            self._expectations.forget(key)
            return DONE
        trusted = self._expectations.satisfied(key)
        pods = await self._claim(owner)
        unfinished = [pod for pod in pods if not is_finished(pod)]
        active = [pod for pod in unfinished if pod.metadata.deletion_timestamp is None]
        terminating = len(unfinished) - len(active)
        error: Exception | None = None
        if trusted and owner.metadata.deletion_timestamp is None:
            error = await self._manage(key, owner, active)
        await self._report(owner, active, terminating, error)
        if error is not None:
            raise error
        return self._next_available(owner, active)

    async def _claim(self, owner: R) -> list[Pod]:
        selector = self._kind.selector(owner)
        verdicts: dict[int, bool] = {}  # by identity: in the cache the pods of a template share their labels

        def matches(pod: Pod) -> bool:
            labels = pod.metadata.labels
            verdict = verdicts.get(id(labels))
            if verdict is None:
                verdict = verdicts[id(labels)] = selector is not None and selector.matches(labels)
            return verdict

        lister = self._pods.lister
        candidates = [
            *lister.by_index(BY_CONTROLLER, owner.metadata.uid),
            *lister.by_index(BY_CONTROLLER, orphans_of(owner.metadata.namespace)),
        ]
        return await claim(
            self._client,
            Pod,
            owner,
            candidates,
            matches,
            is_active,
        )

    async def _manage(self, key: ObjectName, owner: R, active: Sequence[Pod]) -> Exception | None:
        """Create what is missing or delete what is too many; returns the first error."""
        spec: Any = owner.spec  # type: ignore[attr-defined]
        missing = (1 if spec.replicas is None else spec.replicas) - len(active)
        if missing > 0:
            return await self._create(key, owner, min(missing, BURST_REPLICAS))
        if missing < 0:
            doomed = choose_for_deletion(active, self._related(owner), min(-missing, BURST_REPLICAS), self.clock.now())
            return await self._delete(key, owner, doomed)
        return None

    async def _create(self, key: ObjectName, owner: R, count: int) -> Exception | None:
        spec: Any = owner.spec  # type: ignore[attr-defined]
        pod = pod_from_template(spec.template, owner, generate_name=_pod_prefix(owner.metadata.name))
        self._expectations.expect_creations(key, count)
        outcome = 0

        async def create(_: int) -> None:
            nonlocal outcome
            outcome += 1
            try:
                await self._control.create(pod, owner)
            except BaseException as error:
                self._expectations.creation_observed(key)
                if isinstance(error, StatusError) and namespace_terminating(error):
                    return
                raise

        _, error = await slow_start(count, create)
        for _skipped in range(count - outcome):
            self._expectations.creation_observed(key)
        return error

    async def _delete(self, key: ObjectName, owner: R, doomed: Sequence[Pod]) -> Exception | None:
        self._expectations.expect_deletions(key, [pod.metadata.uid for pod in doomed])

        async def delete(pod: Pod) -> None:
            try:
                await self._control.delete(pod, owner)
            except BaseException:
                self._expectations.deletion_observed(key, pod.metadata.uid)
                raise

        results = await asyncio.gather(*(delete(pod) for pod in doomed), return_exceptions=True)
        return next((result for result in results if isinstance(result, Exception)), None)

    def _related(self, owner: R) -> list[Pod]:
        """The pods of all sets of the owner's own controller: a Deployment's sets are spread together."""
        reference = controller_of(owner)
        siblings = [owner]
        if reference is not None:
            siblings = self._sets.lister.by_index(BY_CONTROLLER, reference.uid)
        return [
            pod
            for sibling in siblings
            for pod in self._pods.lister.by_index(BY_CONTROLLER, sibling.metadata.uid)
            if controlled_by(pod, sibling)
        ]

    async def _report(self, owner: R, active: Sequence[Pod], terminating: int, error: Exception | None) -> None:
        spec: Any = owner.spec  # type: ignore[attr-defined]
        current: Any = owner.status  # type: ignore[attr-defined]
        now = self.clock.now()
        numbers = status.counts(
            active,
            terminating,
            spec.template.metadata.labels if spec.template and spec.template.metadata else {},
            spec.min_ready_seconds or 0,
            owner.metadata.generation,
            now,
        )
        wanted_more = (1 if spec.replicas is None else spec.replicas) > len(active)
        conditions = status.conditions(
            current.conditions, error, wanted_more=wanted_more, make=self._kind.condition, now=now
        )
        desired = self._kind.with_status(owner, conditions, **numbers)
        if desired.status == replace(current):  # type: ignore[attr-defined]
            return
        try:
            await self._client.update_status(desired)
        except NotFoundError:
            return

    def _next_available(self, owner: R, active: Sequence[Pod]) -> Result:
        """Come back when the next ready pod has been ready for long enough."""
        spec: Any = owner.spec  # type: ignore[attr-defined]
        if not spec.min_ready_seconds:
            return DONE
        now = self.clock.now()
        waits = [available_in(pod, spec.min_ready_seconds, now) for pod in active]
        pending = [wait for wait in waits if wait]
        return RequeueAfter(min(pending) + timedelta(milliseconds=1)) if pending else DONE


def _pod_prefix(name: str) -> str:
    """What generated pod names begin with: the set's name and a dash, unless that were no valid prefix."""
    return f"{name}-" if len(name) < 253 else name
