"""Brings StatefulSets to their pods and claims, in order, one revision after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from msgspec.structs import replace

from tiphys.api.apps.v1 import ControllerRevision, StatefulSet, StatefulSetStatus
from tiphys.api.core.v1 import PersistentVolumeClaim, Pod
from tiphys.client import (
    DONE,
    NORMAL,
    WARNING,
    Controller,
    Preconditions,
    RequeueAfter,
    Result,
    enqueue,
    key_of,
)
from tiphys.controllers.common import history
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.hashing import revision_hash
from tiphys.controllers.common.owners import (
    BY_CONTROLLER,
    claim,
    controller_of,
    index_by_controller,
    orphans_of,
)
from tiphys.controllers.common.pods import available_in, is_available, is_ready
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.statefulset import identity
from tiphys.controllers.statefulset.plan import is_rolling, plan
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

HASH_LABEL = "controller.kubernetes.io/hash"


class StatefulSetController(Controller[ObjectName]):
    """The controller `statefulset-controller`.

    Names are fixed, so that nothing is ever made twice; what the cache must not lag is deletion, and
    a pod is deleted by its uid.
    """

    name = "statefulset"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("statefulset-controller")
        self._sets = context.informers.of(StatefulSet)
        self._pods = context.informers.of(Pod)
        self._claims = context.informers.of(PersistentVolumeClaim)
        self._revisions = context.informers.of(ControllerRevision)
        super().__init__(context.clock, (self._sets, self._pods, self._claims, self._revisions))
        self._written: dict[ObjectName, str] = {}
        index_by_controller(self._pods)
        index_by_controller(self._revisions)
        enqueue(self.queue, self._sets)
        self._pods.add_handler(self._pod_changed, self._pod_updated, self._pod_changed)
        self._claims.add_handler(on_delete=self._claim_deleted)

    def _pod_changed(self, pod: Pod) -> None:
        reference = controller_of(pod)
        if reference is not None:
            if reference.kind == StatefulSet.KIND:
                self.queue.add(ObjectName(pod.metadata.namespace, reference.name))
            return
        for owner in self._sets.lister.list(pod.metadata.namespace):
            selector = selector_of(owner.spec.selector)
            if selector is not None and selector.matches(pod.metadata.labels):
                self.queue.add(key_of(owner))

    def _pod_updated(self, old: Pod, new: Pod) -> None:
        if controller_of(old) != controller_of(new):
            self._pod_changed(old)
        self._pod_changed(new)

    def _claim_deleted(self, claim: PersistentVolumeClaim) -> None:
        """A pod may be waiting for it."""
        for owner in self._sets.lister.list(claim.metadata.namespace):
            prefixes = (f"{one.metadata.name}-{owner.metadata.name}-" for one in owner.spec.volume_claim_templates)
            if any(claim.metadata.name.startswith(prefix) for prefix in prefixes):
                self.queue.add(key_of(owner))

    async def sync(self, key: ObjectName) -> Result:
        """Take one set a step further."""
        owner = self._sets.lister.get(key)
        if owner is None:
            self._written.pop(key, None)
            return DONE
        if owner.metadata.deletion_timestamp is not None or not self._sets.has_seen(self._written.get(key, "")):
            return DONE
        pods = await self._claim(owner)
        revisions = self._revisions.lister.by_index(BY_CONTROLLER, owner.metadata.uid)
        current, update, collisions = await self._current_and_update(owner, revisions)
        numbered: dict[int, Pod] = {}
        for pod in pods:
            number = identity.ordinal_of(owner, pod)
            if number is not None:
                numbered[number] = pod
        steps = plan(owner, numbered, current, update, self.clock.now())
        await self._keep_claims(owner, numbered)
        await self._restore_claims(owner, numbered)
        for number, revision in steps.create:
            # A pod that began to use a claim on its way out would wait for ever; its end brings the set back.
            if not self._loses_claim(owner, number):
                numbered[number] = await self._create(owner, number, revision)
        for pod in steps.delete:
            await self._delete(owner, pod)
        await self._report(key, owner, list(numbered.values()), current, update, collisions)
        live = {current.metadata.name, update.metadata.name}
        live |= {pod.metadata.labels.get(identity.REVISION, "") for pod in pods}
        await history.truncate(self._client, revisions, live, owner.spec.revision_history_limit)
        return self._next(owner, pods)

    async def _claim(self, owner: StatefulSet) -> list[Pod]:
        selector = selector_of(owner.spec.selector)
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
            lambda pod: (
                selector is not None
                and selector.matches(pod.metadata.labels)
                and identity.ordinal_of(owner, pod) is not None
            ),
        )

    async def _current_and_update(
        self, owner: StatefulSet, revisions: Sequence[ControllerRevision]
    ) -> tuple[ControllerRevision, ControllerRevision, int | None]:
        """The revision pods had, the one they shall have, and the collision count."""
        collisions = owner.status.collision_count
        update = history.equal_to(revisions, owner.spec.template)
        if update is not None:
            newest = max(one.revision for one in revisions)
            if update.revision != newest:
                update = await history.renumber(self._client, update, newest + 1)
        else:
            update, count = await history.create(
                self._client,
                owner,
                owner.spec.template,
                number=history.next_number(revisions),
                hash_label=HASH_LABEL,
                hasher=lambda count: revision_hash(history.data_of(owner.spec.template), count),
                collision_count=collisions or 0,
            )
            collisions = count
        named = owner.status.current_revision
        current = next((one for one in revisions if one.metadata.name == named), update)
        return current, update, collisions if collisions is not None else 0

    async def _create(self, owner: StatefulSet, number: int, revision: ControllerRevision) -> Pod:
        for wanted in identity.claims_of(owner, number):
            await self._create_claim(owner, number, wanted)
        pod = identity.pod_of(owner, revision, number)
        what = f"create Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
        try:
            made = await self._client.create(pod)
        except AlreadyExistsError:
            return pod  # made before, and not yet in the cache; or a stranger, who will leave or be adopted
        except StatusError as error:
            message = f"{what} failed error: {error.message}"
            self._recorder.event(owner, WARNING, "FailedCreate", message)
            raise
        self._recorder.event(owner, NORMAL, "SuccessfulCreate", f"{what} successful")
        return made

    async def _create_claim(self, owner: StatefulSet, number: int, wanted: PersistentVolumeClaim) -> None:
        if self._claims.lister.get(key_of(wanted)) is not None:
            return
        owners = identity.claim_owners(owner, None, number, wanted)
        what = (
            f"create Claim {wanted.metadata.name} Pod {owner.metadata.name}-{number} "
            f"in StatefulSet {owner.metadata.name}"
        )
        try:
            await self._client.create(replace(wanted, metadata=replace(wanted.metadata, owner_references=owners)))
        except AlreadyExistsError:
            return
        except StatusError as error:
            self._recorder.event(owner, WARNING, "FailedCreate", f"{what} failed error: {error.message}")
            raise
        self._recorder.event(owner, NORMAL, "SuccessfulCreate", f"{what} success")

    def _loses_claim(self, owner: StatefulSet, number: int) -> bool:
        claims = (self._claims.lister.get(key_of(wanted)) for wanted in identity.claims_of(owner, number))
        return any(found is not None and found.metadata.deletion_timestamp is not None for found in claims)

    async def _restore_claims(self, owner: StatefulSet, pods: Mapping[int, Pod]) -> None:
        """Make claims anew whose loss keeps a pod from starting."""
        for number, pod in pods.items():
            if pod.status.phase != "Pending" or pod.metadata.deletion_timestamp is not None:
                continue
            for wanted in identity.claims_of(owner, number):
                if self._claims.lister.get(key_of(wanted)) is None:
                    await self._create_claim(owner, number, wanted)

    async def _keep_claims(self, owner: StatefulSet, pods: dict[int, Pod]) -> None:
        """Bring the owners of existing claims in line with the retention policy."""
        if not owner.spec.volume_claim_templates:
            return
        for number, pod in pods.items():
            for wanted in identity.claims_of(owner, number):
                found = self._claims.lister.get(key_of(wanted))
                if found is None or found.metadata.deletion_timestamp is not None:
                    continue
                owners = identity.claim_owners(owner, pod, number, found)
                if owners != found.metadata.owner_references:
                    with suppress(NotFoundError):
                        meta = replace(found.metadata, owner_references=owners)
                        await self._client.update(replace(found, metadata=meta))

    async def _delete(self, owner: StatefulSet, pod: Pod) -> None:
        what = f"delete Pod {pod.metadata.name} in StatefulSet {owner.metadata.name}"
        try:
            with suppress(NotFoundError):
                await self._client.delete(Pod, key_of(pod), only_if=Preconditions(uid=pod.metadata.uid))
        except StatusError as error:
            self._recorder.event(owner, WARNING, "FailedDelete", f"{what} failed error: {error.message}")
            raise
        self._recorder.event(owner, NORMAL, "SuccessfulDelete", f"{what} successful")

    async def _report(
        self,
        key: ObjectName,
        owner: StatefulSet,
        pods: Sequence[Pod],
        current: ControllerRevision,
        update: ControllerRevision,
        collisions: int | None,
    ) -> None:
        now = self.clock.now()
        seconds = owner.spec.min_ready_seconds or 0

        def of(revision: ControllerRevision) -> int:
            return sum(
                pod.metadata.labels.get(identity.REVISION) == revision.metadata.name
                for pod in pods
                if pod.metadata.deletion_timestamp is None
            )

        ready = sum(is_ready(pod) for pod in pods if pod.metadata.deletion_timestamp is None)
        available = sum(is_available(pod, seconds, now) for pod in pods if pod.metadata.deletion_timestamp is None)
        updated = of(update)
        if is_rolling(owner) and updated == len(pods) == ready == identity.wanted(owner):
            current = update  # the update is complete
        status = StatefulSetStatus(
            observed_generation=owner.metadata.generation,
            replicas=len(pods),
            ready_replicas=ready or None,
            current_replicas=of(current) or None,
            updated_replicas=updated or None,
            available_replicas=available,
            current_revision=current.metadata.name,
            update_revision=update.metadata.name,
            collision_count=collisions,
            conditions=owner.status.conditions,
        )
        if status != owner.status:
            with suppress(NotFoundError):
                written = await self._client.update_status(replace(owner, status=status))
                self._written[key] = written.metadata.resource_version

    def _next(self, owner: StatefulSet, pods: Sequence[Pod]) -> Result:
        seconds = owner.spec.min_ready_seconds or 0
        waits = [wait for pod in pods if (wait := available_in(pod, seconds, self.clock.now()))]
        return RequeueAfter(min(waits) + timedelta(milliseconds=1)) if waits else DONE
