"""The controller `resourceclaim-controller`.

Two kinds of keys: a pod, whose claims are made from their templates and named in its status; and a
claim, whose list of users is freed of pods that are done, and which loses its devices with the last.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from tiphys.api.core.v1 import Pod, PodResourceClaim
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.resource.v1 import (
    ResourceClaim,
    ResourceClaimConsumerReference,
    ResourceClaimTemplate,
)
from tiphys.client import DONE, WARNING, Controller, PatchType, Preconditions, Result, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.latest import Latest
from tiphys.controllers.common.owners import controlled_by, controller_of, controller_reference
from tiphys.controllers.common.pods import is_finished
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

FINALIZER: Final = "resource.kubernetes.io/delete-protection"
POD_CLAIM_NAME: Final = "resource.kubernetes.io/pod-claim-name"
EXTENDED: Final = "resource.kubernetes.io/extended-resource-claim"  # made by the scheduler
MANAGER: Final = "ResourceClaimController"
BY_POD: Final = "pod"


class Key(NamedTuple):
    """A pod or a claim."""

    kind: str
    name: ObjectName


def is_done(pod: Pod) -> bool:
    """Whether the pod uses no device any more, and never will."""
    return is_finished(pod) or (pod.metadata.deletion_timestamp is not None and not pod.spec.node_name)


class ResourceClaimController(Controller[Key]):
    """The controller `resourceclaim-controller`."""

    name = "resource_claim"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._recorder = context.recorder("resource_claim")
        self._pods = context.informers.of(Pod)
        self._templates = context.informers.of(ResourceClaimTemplate)
        self._cache = context.informers.of(ResourceClaim)
        super().__init__(context.clock, (self._pods, self._templates, self._cache))
        self._claims = Latest(self._cache)
        self._pods.add_handler(self._pod_changed, lambda _, new: self._pod_changed(new), self._pod_changed)
        self._cache.add_handler(self._claim_changed, lambda _, new: self._claim_changed(new), self._claim_gone)
        self._templates.add_handler(self._template_added)

    def _pod_changed(self, pod: Pod) -> None:
        extended = pod.status.extended_resource_claim_status
        if extended is not None:
            self.queue.add(Key("claim", ObjectName(pod.metadata.namespace, extended.resource_claim_name)))
        if not pod.spec.resource_claims:
            return
        self.queue.add(Key("pod", key_of(pod)))
        statuses = {one.name: one.resource_claim_name for one in pod.status.resource_claim_statuses}
        for wish in pod.spec.resource_claims:
            name = wish.resource_claim_name or statuses.get(wish.name)
            if name:
                self.queue.add(Key("claim", ObjectName(pod.metadata.namespace, name)))

    def _claim_changed(self, claim: ResourceClaim) -> None:
        self.queue.add(Key("claim", key_of(claim)))

    def _claim_gone(self, claim: ResourceClaim) -> None:
        owner = controller_of(claim)
        if owner is not None and owner.kind == "Pod":
            self.queue.add(Key("pod", ObjectName(claim.metadata.namespace, owner.name)))

    def _template_added(self, template: ResourceClaimTemplate) -> None:
        for pod in self._pods.lister.list(template.metadata.namespace):
            if any(wish.resource_claim_template_name == template.metadata.name for wish in pod.spec.resource_claims):
                self._pod_changed(pod)

    async def sync(self, key: Key) -> Result:
        """Serve one pod or one claim."""
        if key.kind == "pod":
            pod = self._pods.lister.get(key.name)
            if pod is not None:
                await self._sync_pod(pod)
            return DONE
        claim = self._claims.get(key.name)
        if claim is not None:
            await self._sync_claim(claim)
        return DONE

    # Pods

    async def _sync_pod(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp is not None or is_finished(pod):
            return
        named = {one.name: one.resource_claim_name for one in pod.status.resource_claim_statuses}
        made = dict(named)
        for wish in pod.spec.resource_claims:
            if wish.resource_claim_template_name is not None and await self._is_missing(pod, named.get(wish.name)):
                try:
                    made[wish.name] = await self._make(pod, wish)
                except StatusError as error:
                    text = f"PodResourceClaim {wish.name}: {error.message}"
                    self._recorder.event(pod, WARNING, "FailedResourceClaimCreation", text)
                    raise
        if made != named:
            await self._name_claims(pod, made)
        await self._reserve_for_placed(pod, made)

    async def _is_missing(self, pod: Pod, name: str | None) -> bool:
        if not name:
            return True
        key = ObjectName(pod.metadata.namespace, name)
        if self._claims.get(key) is not None:
            return False
        with suppress(NotFoundError):
            await self._client.get(ResourceClaim, key)
            return False
        return True

    async def _make(self, pod: Pod, wish: PodResourceClaim) -> str:
        """The name of the claim for a wish: one made earlier whose name was not noted, or a new one."""
        known = self._claims.list()
        if self.queue.failures(Key("pod", key_of(pod))):
            # The answer to an earlier try may have been lost, and the cache be behind: no second claim.
            known = (await self._client.list(ResourceClaim, namespace=pod.metadata.namespace)).items
        for claim in known:
            if controlled_by(claim, pod) and claim.metadata.annotations.get(POD_CLAIM_NAME) == wish.name:
                return claim.metadata.name
        name = ObjectName(pod.metadata.namespace, wish.resource_claim_template_name or "")
        template = self._templates.lister.get(name) or await self._client.get(ResourceClaimTemplate, name)
        source = template.spec.metadata
        claim = ResourceClaim(
            metadata=ObjectMeta(
                generate_name=f"{pod.metadata.name}-{wish.name}-",
                namespace=pod.metadata.namespace,
                labels=source.labels,
                annotations={**source.annotations, POD_CLAIM_NAME: wish.name},
                owner_references=(controller_reference(pod),),
            ),
            spec=template.spec.spec,
        )
        return self._claims.note(await self._client.create(claim)).metadata.name

    async def _name_claims(self, pod: Pod, made: dict[str, str | None]) -> None:
        statuses = [{"name": wish, "resourceClaimName": name} for wish, name in made.items() if name]
        applied: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": statuses},
        }
        await self._client.patch(
            Pod,
            key_of(pod),
            applied,
            patch_type=PatchType.APPLY,
            subresource="status",
            field_manager=MANAGER,
            force=True,
        )

    async def _reserve_for_placed(self, pod: Pod, made: dict[str, str | None]) -> None:
        """A pod put on a node past the scheduler has nobody else to reserve its claims."""
        if not pod.spec.node_name:
            return
        for wish in pod.spec.resource_claims:
            name = wish.resource_claim_name or made.get(wish.name)
            claim = self._claims.get(ObjectName(pod.metadata.namespace, name)) if name else None
            if claim is None or claim.status.allocation is None:
                continue
            if not any(user.uid == pod.metadata.uid for user in claim.status.reserved_for):
                user = ResourceClaimConsumerReference(resource="pods", name=pod.metadata.name, uid=pod.metadata.uid)
                status = replace(claim.status, reserved_for=(*claim.status.reserved_for, user))
                self._claims.note(await self._client.update_status(replace(claim, status=status)))

    # Claims

    async def _sync_claim(self, claim: ResourceClaim) -> None:
        users = [user for user in claim.status.reserved_for if await self._uses(claim.metadata.namespace, user)]
        released = len(users) < len(claim.status.reserved_for) or claim.metadata.deletion_timestamp is not None
        if len(users) < len(claim.status.reserved_for) or (not users and released and claim.status.allocation):
            status = replace(claim.status, reserved_for=tuple(users))
            if not users:
                status = replace(status, allocation=None, devices=())
            claim = self._claims.note(await self._client.update_status(replace(claim, status=status)))
        if claim.status.allocation is None and FINALIZER in claim.metadata.finalizers:
            finalizers = tuple(name for name in claim.metadata.finalizers if name != FINALIZER)
            with suppress(NotFoundError):
                metadata = replace(claim.metadata, finalizers=finalizers)
                claim = self._claims.note(await self._client.update(replace(claim, metadata=metadata)))
        if not users and claim.metadata.deletion_timestamp is None and await self._has_served(claim):
            with suppress(NotFoundError):
                only_if = Preconditions(uid=claim.metadata.uid)
                await self._client.delete(ResourceClaim, key_of(claim), only_if=only_if)

    async def _has_served(self, claim: ResourceClaim) -> bool:
        """Whether the claim was made for a pod that is done; one that is gone is the garbage collector's."""
        owner = controller_of(claim)
        made_for_pods = {POD_CLAIM_NAME, EXTENDED} & claim.metadata.annotations.keys()
        if owner is None or owner.kind != "Pod" or not made_for_pods:
            return False
        pod = self._pods.lister.get(ObjectName(claim.metadata.namespace, owner.name))
        return pod is not None and pod.metadata.uid == owner.uid and is_done(pod)

    async def _uses(self, namespace: str, user: ResourceClaimConsumerReference) -> bool:
        """Whether a user is still one; of users that are not pods nothing is known, so they stay."""
        if user.api_group or user.resource != "pods":
            return True
        key = ObjectName(namespace, user.name)
        pod = self._pods.lister.get(key)
        if pod is None or pod.metadata.uid != user.uid:
            try:
                pod = await self._client.get(Pod, key)
            except NotFoundError:
                return False
        return pod.metadata.uid == user.uid and not is_done(pod)
