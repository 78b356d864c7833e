"""Keeps the status of PodDisruptionBudgets: how many pods may be evicted now.

The eviction subresource takes from `disruptionsAllowed` and notes the pod in `disruptedPods`; here
the numbers are counted anew whenever pods change.
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.apps.v1 import Deployment, ReplicaSet, StatefulSet
from tiphys.api.core.v1 import Pod, ReplicationController
from tiphys.api.meta.v1 import Condition, OwnerReference
from tiphys.api.policy.v1 import PodDisruptionBudget, PodDisruptionBudgetStatus
from tiphys.client import DONE, NORMAL, WARNING, Controller, RequeueAfter, Result, enqueue, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.owners import controller_of
from tiphys.controllers.common.pods import is_finished, is_ready
from tiphys.controllers.common.scales import NotScalable, Targets, UnknownKind
from tiphys.controllers.common.selectors import selector_of
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.intstr import scaled_value
from tiphys.machinery.meta import ObjectName

# An evicted pod that was not seen being deleted after this long was not evicted after all.
DELETION_TIMEOUT: Final = timedelta(minutes=2)
# A kind may become scalable, and an owner whose scale could not be read is worth asking again.
RETRY: Final = timedelta(minutes=1)
ALLOWED: Final = "DisruptionAllowed"


def desired_healthy(budget: PodDisruptionBudget, expected: int) -> int:
    """How many pods must stay healthy of `expected`; percentages round up."""
    spec = budget.spec
    if spec.max_unavailable is not None:
        return max(0, expected - scaled_value(spec.max_unavailable, expected, True))
    if spec.min_available is not None:
        return scaled_value(spec.min_available, expected, True)
    return 0


def disrupted(current: Mapping[str, datetime], pods: Iterable[Pod], now: datetime) -> dict[str, datetime]:
    """The evictions that the pods do not show yet."""
    there = {pod.metadata.name: pod for pod in pods}
    return {
        name: since
        for name, since in current.items()
        if name in there and there[name].metadata.deletion_timestamp is None and now - since <= DELETION_TIMEOUT
    }


def healthy(pods: Iterable[Pod], evicted: Mapping[str, datetime]) -> int:
    """Pods that are ready and not on their way out."""
    return sum(
        is_ready(pod) and pod.metadata.deletion_timestamp is None and pod.metadata.name not in evicted for pod in pods
    )


class DisruptionController(Controller[ObjectName]):
    """The controller `disruption-controller`."""

    name = "disruption"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("controllermanager")
        self._targets = Targets(context.client)
        informers = context.informers
        self._budgets = informers.of(PodDisruptionBudget)
        self._pods = informers.of(Pod)
        self._deployments = informers.of(Deployment)
        self._replica_sets = informers.of(ReplicaSet)
        self._stateful_sets = informers.of(StatefulSet)
        self._controllers = informers.of(ReplicationController)
        super().__init__(
            context.clock,
            (
                self._budgets,
                self._pods,
                self._deployments,
                self._replica_sets,
                self._stateful_sets,
                self._controllers,
            ),
        )
        enqueue(self.queue, self._budgets)
        self._pods.add_handler(self._pod_changed, self._pod_updated, self._pod_changed)

    def _pod_changed(self, pod: Pod) -> None:
        for budget in self._budgets.lister.list(pod.metadata.namespace):
            selector = selector_of(budget.spec.selector)
            if selector is not None and selector.matches(pod.metadata.labels):
                self.queue.add(key_of(budget))

    def _pod_updated(self, old: Pod, new: Pod) -> None:
        if old.metadata.labels != new.metadata.labels:
            self._pod_changed(old)
        self._pod_changed(new)

    async def sync(self, key: ObjectName) -> Result:
        """Count for one budget."""
        budget = self._budgets.lister.get(key)
        if budget is None:
            return DONE
        selector = selector_of(budget.spec.selector)
        pods = [
            pod
            for pod in self._pods.lister.list(key.namespace)
            if selector is not None and selector.matches(pod.metadata.labels) and not is_finished(pod)
        ]
        if not pods:
            self._recorder.event(budget, NORMAL, "NoPods", "No matching pods found")
        try:
            expected = await self._expected(budget, pods)
        except (NotScalable, UnknownKind, StatusError) as error:
            message = f"Failed to calculate the number of expected pods: {error}"
            self._recorder.event(budget, WARNING, "CalculateExpectedPodCountFailed", message)
            await self._refuse_all(budget, str(error))
            return RequeueAfter(RETRY)
        return await self._count(budget, pods, expected)

    async def _count(self, budget: PodDisruptionBudget, pods: Sequence[Pod], expected: int) -> Result:
        now = self.clock.now()
        evicted = disrupted(budget.status.disrupted_pods, pods, now)
        desired, current = desired_healthy(budget, expected), healthy(pods, evicted)
        allowed = max(0, current - desired) if expected > 0 else 0
        verdict = ("True", "SufficientPods", "") if allowed > 0 else ("False", "InsufficientPods", "")
        status = PodDisruptionBudgetStatus(
            observed_generation=budget.metadata.generation,
            disrupted_pods=evicted,
            disruptions_allowed=allowed,
            current_healthy=current,
            desired_healthy=desired,
            expected_pods=expected,
            conditions=_conditions(budget, *verdict, now),
        )
        await self._write(budget, status)
        if evicted:
            return RequeueAfter(min(evicted.values()) + DELETION_TIMEOUT - now + timedelta(seconds=1))
        return DONE

    async def _refuse_all(self, budget: PodDisruptionBudget, message: str) -> None:
        """Who cannot count allows nothing."""
        conditions = _conditions(budget, "False", "SyncFailed", message, self.clock.now())
        generation = budget.metadata.generation
        await self._write(
            budget,
            replace(budget.status, observed_generation=generation, disruptions_allowed=0, conditions=conditions),
        )

    async def _write(self, budget: PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> None:
        if status != budget.status:
            with suppress(NotFoundError):
                await self._client.update_status(replace(budget, status=status))

    async def _expected(self, budget: PodDisruptionBudget, pods: Sequence[Pod]) -> int:
        """How many pods there should be: what the pods' owners want, unless the budget is a plain number.

        Raises NotScalable, UnknownKind, StatusError where an owner does not say.
        """
        spec = budget.spec
        if spec.max_unavailable is None and not isinstance(spec.min_available, str):
            return len(pods)
        wanted: dict[str, int] = {}
        for pod in pods:
            reference = controller_of(pod)
            if reference is None or reference.uid in wanted:
                continue
            found = await self._scale_of(pod.metadata.namespace, reference)
            if found is not None:
                uid, replicas = found
                wanted[uid] = replicas
        return sum(wanted.values())

    async def _scale_of(self, namespace: str, reference: OwnerReference) -> tuple[str, int] | None:
        """(uid, replicas) of what scales the pods of a controller; None when it is not there."""
        name = ObjectName(namespace, reference.name)
        group = reference.api_version.rpartition("/")[0]
        if (group, reference.kind) == ("apps", ReplicaSet.KIND):
            rs = self._replica_sets.lister.get(name)
            owner = controller_of(rs) if rs is not None else None
            if owner is not None and owner.kind == Deployment.KIND:
                deployment = self._deployments.lister.get(ObjectName(namespace, owner.name))
                if deployment is not None:
                    return deployment.metadata.uid, _replicas(deployment)
            return (rs.metadata.uid, _replicas(rs)) if rs is not None else None
        if (group, reference.kind) == ("apps", StatefulSet.KIND):
            stateful = self._stateful_sets.lister.get(name)
            return (stateful.metadata.uid, _replicas(stateful)) if stateful is not None else None
        if (group, reference.kind) == ("", ReplicationController.KIND):
            rc = self._controllers.lister.get(name)
            return (rc.metadata.uid, _replicas(rc)) if rc is not None else None
        scale = await self._targets.find(namespace, reference.api_version, reference.kind, reference.name)
        return (reference.uid, scale.replicas) if scale is not None else None


def _replicas(owner: Deployment | ReplicaSet | StatefulSet | ReplicationController) -> int:
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def _conditions(
    budget: PodDisruptionBudget, status: str, reason: str, message: str, now: datetime
) -> tuple[Condition, ...]:
    known = next((found for found in budget.status.conditions if found.type == ALLOWED), None)
    since = now.replace(microsecond=0)
    if known is not None and known.status == status and known.last_transition_time is not None:
        since = known.last_transition_time
    condition = Condition(
        type=ALLOWED,
        status=status,
        reason=reason,
        message=message,
        observed_generation=budget.metadata.generation,
        last_transition_time=since,
    )
    return (*(found for found in budget.status.conditions if found.type != ALLOWED), condition)
