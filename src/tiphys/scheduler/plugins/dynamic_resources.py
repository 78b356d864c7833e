"""DynamicResources: a pod goes where the devices of its claims are, or can be had.

    PreEnqueue   wait for claims that are still to be made from their templates
    Filter       claims with devices: nodes that reach these; claims without: nodes where the allocator finds some
    Reserve      choose the devices on the node; from here on they are taken
    PreBind      write the choice into the claims, with the pod among their users; wait for devices made ready then
    PostFilter   give devices back that nobody uses and with which the pod fits nowhere

What a node can offer to equal claims is remembered until a device of that node changes hands.
https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, Final

import numpy as np
from msgspec.structs import replace

from tiphys.api.core.v1 import Node, Pod
from tiphys.api.resource.v1 import (
    AllocationResult,
    DeviceClass,
    ResourceClaim,
    ResourceClaimConsumerReference,
)
from tiphys.client import Preconditions, key_of
from tiphys.machinery.errors import ConflictError, NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.dra.allocator import Allocator, Given
from tiphys.scheduler.dra.devices import devices_of
from tiphys.scheduler.dra.extended import Asked, claim_for, owner_of, status_patch, without_plugin
from tiphys.scheduler.dra.inventory import DeviceId, Inventory, Offer
from tiphys.scheduler.dra.readiness import readiness
from tiphys.scheduler.dra.requests import ClaimError, Wanted, wanted_of
from tiphys.scheduler.dra.results import allocation_of
from tiphys.scheduler.dra.selectors import SelectorError
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import (
    SKIP,
    CycleState,
    Diagnosis,
    Filters,
    PostFilterResult,
    Reason,
    Refusal,
    Skip,
    StateKey,
    Verdict,
)
from tiphys.scheduler.handle import Handle
from tiphys.scheduler.nodeselector import selector_mask
from tiphys.scheduler.nodetable import Mask, NodeTable
from tiphys.scheduler.podinfo import PodInfo

REASON_CANNOT: Final = "cannot allocate all claims"
REASON_ELSEWHERE: Final = "resourceclaim not available on the node"
BINDING_TIMEOUT: Final = timedelta(seconds=600)
BY_POD: Final = "extended resources of pod"
LOOK_AGAIN: Final = 5.0  # seconds after which devices that are awaited are looked at without an event
FINALIZER: Final = "resource.kubernetes.io/delete-protection"
MAX_USERS: Final = 256  # of one claim
WRITE_TRIES: Final = 5
MAX_REMEMBERED: Final = 200  # kinds of claims


@dataclass(slots=True)
class PodClaims:
    """A pod's claims: those that have devices, and what the others want.

    What it asks of extended resources that devices serve becomes one more claim, which is not the same on all nodes.
    """

    allocated: list[ResourceClaim]
    wanted: list[Wanted]
    asked: tuple[Asked, ...] = ()
    chosen: dict[str, AllocationResult] = field(default_factory=dict)  # by claim uid, from Reserve on
    failure: str = ""
    extended: dict[tuple[Asked, ...], Wanted] = field(default_factory=dict)
    reserved: tuple[Asked, ...] = ()  # of `asked`, on the node that was chosen
    made: ResourceClaim | None = None  # the claim for that, once there is one

    @property
    def wants(self) -> bool:
        return bool(self.wanted or self.asked)


CLAIMS: Final[StateKey[PodClaims]] = StateKey("DynamicResources")


def concerns(pod: PodInfo, old: object, new: object) -> bool:
    """A claim matters to the pod when it is one of its own, or gives devices back."""
    claims = [each for each in (old, new) if isinstance(each, ResourceClaim)]
    if not claims:
        return True
    had, has = (each.status.allocation if isinstance(each, ResourceClaim) else None for each in (old, new))
    if had is not None and has != had:
        return True
    metadata = claims[-1].metadata
    if metadata.namespace != pod.namespace:
        return False
    named = any(wish.resource_claim_name == metadata.name for wish in pod.pod.spec.resource_claims)
    return named or any(owner.uid == pod.uid for owner in metadata.owner_references)


def counts_itself(pod: PodInfo, _old: object, _new: object) -> bool:
    """A node may begin to count a resource that devices serve elsewhere."""
    return any("/" in name for name in pod.requests)


class DynamicResources:
    name: ClassVar[str] = "DynamicResources"
    requeue_on: ClassVar[Requeue] = {
        Event.RESOURCE_CLAIM: concerns,
        Event.RESOURCE_SLICE: always,
        Event.DEVICE_CLASS: always,
        Event.NODE_ADD: always,
        Event.NODE_LABEL: always,
        Event.NODE_ALLOCATABLE: counts_itself,
        Event.TARGET_POD_UPDATE: always,
    }

    def __init__(self, handle: Handle, patience: timedelta = BINDING_TIMEOUT) -> None:
        """`patience`: for devices that are made ready once they are chosen."""
        self._patience = patience
        self._changed = asyncio.Event()
        self._client = handle.client
        self._clock = handle.clock
        self._handle = handle
        self._informer = handle.informers.of(ResourceClaim)
        self._informer.add_handler(None, lambda _, __: self._changed.set(), lambda _: self._changed.set())
        self._claims = self._informer.lister
        self._informer.add_index(BY_POD, owner_of)
        self._nodes = handle.informers.of(Node).lister
        classes = handle.informers.of(DeviceClass).lister
        self._class: Callable[[str], DeviceClass | None] = lambda name: classes.get(ObjectName("", name))
        self._devices = devices_of(handle.informers)

    # --- deciding ----------------------------------------------------------------------------

    def pre_enqueue(self, pod: PodInfo) -> Refusal | None:
        if not pod.pod.spec.resource_claims:
            return None
        try:
            self._claims_of(pod)
        except ClaimError as error:
            return Refusal(str(error), about=error.claim or pod.key)
        return None

    def _claims_of(self, pod: PodInfo) -> list[ResourceClaim]:
        """The claims by the names the pod and its status give. Raises ClaimError while one cannot be used."""
        statuses = {one.name: one.resource_claim_name for one in pod.pod.status.resource_claim_statuses}
        found = []
        for wish in pod.pod.spec.resource_claims:
            name = wish.resource_claim_name
            if wish.resource_claim_template_name is not None:
                if wish.name not in statuses:
                    raise ClaimError(f'pod "{pod.key}": ResourceClaim not created yet')
                name = statuses[wish.name]
            if not name:
                continue  # none is needed for this one
            claim = self._claims.get(ObjectName(pod.namespace, name))
            if claim is None:
                key = ObjectName(pod.namespace, name)
                raise ClaimError(f'resourceclaim.resource.k8s.io "{name}" not found', key)
            owners = [owner.uid for owner in claim.metadata.owner_references if owner.controller]
            if wish.resource_claim_template_name is not None and owners != [pod.uid]:
                words = f"ResourceClaim {pod.namespace}/{name} was not created for pod {pod.key}"
                raise ClaimError(words, key_of(claim))
            if claim.metadata.deletion_timestamp is not None:
                raise ClaimError(f'resourceclaim "{name}" is being deleted', key_of(claim))
            found.append(claim)
        return found

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Refusal | Skip | None:
        served = self._devices.extended
        extended = any(served.class_of(name) is not None for name in pod.requests)
        if not pod.pod.spec.resource_claims and not extended:
            return SKIP
        try:
            claims = self._claims_of(pod)
            found = PodClaims([], [], served.asked_by(pod.pod) if extended else ())
            for claim in claims:
                if claim.metadata.uid in self._devices.ledger.in_flight:
                    # Another pod that shares it is being bound; it says where in a moment.
                    return Refusal(f"resourceclaim {claim.metadata.name} is in the process of being allocated")
                if claim.status.allocation is None:
                    found.wanted.append(wanted_of(claim, self._class))
                elif not _may_use(claim, pod):
                    return Refusal("resourceclaim in use")
                else:
                    found.allocated.append(claim)
        except ClaimError as error:
            return Refusal(str(error))
        state.write(CLAIMS, found)
        return None

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        claims = state.read(CLAIMS)
        reached = np.ones(nodes.width, dtype=np.bool_)
        for claim in claims.allocated:
            selector = claim.status.allocation.node_selector if claim.status.allocation is not None else None
            if selector is not None:
                reached &= selector_mask(nodes, selector)
        served = self._served(pod, claims, nodes, reached) if claims.wants else reached

        def explain(rejected: Mask) -> list[Reason]:
            reasons = [
                Reason(REASON_ELSEWHERE, rejected & ~reached, False),
                Reason(claims.failure or REASON_CANNOT, rejected & reached & ~served, False),
            ]
            return [reason for reason in reasons if reason.rows.any()]

        return Verdict(reached & served, explain)

    def _served(self, pod: PodInfo, claims: PodClaims, nodes: NodeTable, among: Mask) -> Mask:
        """Rows where all wanted claims can have devices."""
        inventory = self._devices.inventory()
        self._note_changes(inventory)
        if len(self._devices.answers) > MAX_REMEMBERED:
            self._devices.answers.clear()
        elsewhere = [(offer, self._reach(offer, nodes)) for offer in inventory.elsewhere]
        result = np.zeros(nodes.width, dtype=np.bool_)
        for row in np.flatnonzero(among & nodes.alive).tolist():
            node = nodes.node_in_view(row)
            wanted = self._wanted_on(node, pod, claims)
            own = inventory.by_node.get(node.metadata.name, ())
            if not wanted or not (own or elsewhere):
                result[row] = not wanted
                continue
            known = self._devices.answers.setdefault(tuple(each.signature for each in wanted), {})
            answer = known.get(node.metadata.name) if not elsewhere else None
            if answer is None:
                offers = [*own, *(offer for offer, mask in elsewhere if mask is None or mask[row])]
                answer = self._allocate(claims, wanted, offers) is not None
                if not elsewhere and not claims.failure:
                    known[node.metadata.name] = answer
            result[row] = answer
        return result

    def _wanted_on(self, node: Node, pod: PodInfo, claims: PodClaims) -> Sequence[Wanted]:
        """What has to be found for the pod on a node."""
        if not claims.asked:
            return claims.wanted
        asked = without_plugin(node, claims.asked)
        if not asked:
            return claims.wanted
        if asked not in claims.extended:
            claims.extended[asked] = wanted_of(claim_for(pod.pod, asked), self._class)
        return [*claims.wanted, claims.extended[asked]]

    def _note_changes(self, inventory: Inventory) -> None:
        """Forget what was worked out for nodes whose devices changed hands."""
        for identity in self._devices.ledger.changes:
            node = self._node_of(inventory, identity)
            for answers in self._devices.answers.values():
                answers.pop(node, None)
        self._devices.ledger.changes.clear()

    @staticmethod
    def _node_of(inventory: Inventory, identity: DeviceId) -> str:
        offer = inventory.offers.get(identity)
        return offer.node if offer is not None else ""

    @staticmethod
    def _reach(offer: Offer, nodes: NodeTable) -> Mask | None:
        """Rows that reach a device; None: all."""
        if offer.selector is None:
            return None
        return selector_mask(nodes, offer.selector)

    def _allocate(
        self, claims: PodClaims, wanted: Sequence[Wanted], offers: Sequence[Offer]
    ) -> list[list[Given]] | None:
        try:
            allocator = Allocator(self._devices.inventory(), self._devices.ledger, self._devices.selectors, offers)
            return allocator.allocate(wanted)
        except SelectorError as error:
            claims.failure = str(error)
            return None

    # --- reserving and binding ---------------------------------------------------------------

    def reserve(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        claims = state.get(CLAIMS)
        known = self._nodes.get(ObjectName("", node))
        if claims is None or not claims.wants or known is None:
            return None
        wanted = self._wanted_on(known, pod, claims)
        claims.reserved = without_plugin(known, claims.asked)
        given = self._allocate(claims, wanted, self._offers_of(node))
        if given is None:
            return Refusal(claims.failure or REASON_CANNOT)
        now = self._clock.now().replace(microsecond=0)
        for each, devices in zip(wanted, given, strict=True):
            allocation = allocation_of(each.claim, devices, self._class, now, node)
            claims.chosen[each.claim.metadata.uid] = allocation
            self._devices.ledger.assume(each.claim.metadata.uid, allocation)
        return None

    def _offers_of(self, node: str) -> list[Offer]:
        inventory = self._devices.inventory()
        table = self._nodes_alone(node)
        reachable = [
            offer
            for offer in inventory.elsewhere
            if offer.selector is None or (table is not None and bool(selector_mask(table, offer.selector)[0]))
        ]
        return [*inventory.by_node.get(node, ()), *reachable]

    def _nodes_alone(self, node: str) -> NodeTable | None:
        """A table with one node, to ask selectors about it."""
        known = self._nodes.get(ObjectName("", node))
        if known is None:
            return None
        alone = NodeTable()
        alone.set_node(known)
        return alone

    def unreserve(self, state: CycleState, pod: PodInfo, node: str) -> None:
        claims = state.get(CLAIMS)
        if claims is None:
            return
        for uid in claims.chosen:
            self._devices.ledger.forget(uid)
        if claims.made is not None:
            made, claims.made = claims.made, None
            self._handle.spawn(lambda: self._take_away(made), f"take away {key_of(made)}")

    def pre_bind_pre_flight(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        return state.get(CLAIMS) is not None

    async def pre_bind(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        claims = state.get(CLAIMS)
        if claims is None:
            return None
        written = []
        for claim in (*claims.allocated, *(each.claim for each in claims.wanted)):
            async with self._handle.writes:
                result = await self._write(claim, claims.chosen.get(claim.metadata.uid), pod)
            if isinstance(result, str):
                return Refusal(result)
            written.append(result)
        if claims.reserved:
            result = await self._make_extended(pod, claims)
            if isinstance(result, str):
                return Refusal(result)
            written.append(result)
        for claim in written:
            failure = await self._made_ready(claim)
            if failure:
                return Refusal(failure)
        return None

    async def _make_extended(self, pod: PodInfo, claims: PodClaims) -> ResourceClaim | str:
        """Make the claim for extended resources, and have the pod's status say so; or why that fails."""
        for old in self._claims.by_index(BY_POD, pod.uid):
            await self._take_away(old)  # of a binding that came to nothing
        wanted = claims.extended[claims.reserved].claim
        chosen = claims.chosen[wanted.metadata.uid]
        async with self._handle.writes:
            claims.made = await self._client.create(replace(wanted, metadata=replace(wanted.metadata, uid="")))
            result = await self._write(claims.made, chosen, pod)
            self._devices.ledger.forget(wanted.metadata.uid)
            if isinstance(result, str):
                return result
            claims.made = result
            patch = status_patch(pod.pod, result.metadata.name, claims.reserved)
            await self._client.patch(Pod, pod.key, patch, subresource="status")
        return result

    async def _take_away(self, claim: ResourceClaim) -> None:
        """Its devices are free at once; what is left of it the controller of claims removes."""
        with suppress(NotFoundError):
            await self._give_back(await self._client.get(ResourceClaim, key_of(claim)))
            await self._client.delete(ResourceClaim, key_of(claim), only_if=Preconditions(uid=claim.metadata.uid))

    async def _made_ready(self, claim: ResourceClaim) -> str:
        """Wait for the devices of a claim; why they will not be ready, after they were given back."""
        key, revision = key_of(claim), claim.metadata.resource_version
        while True:
            self._changed.clear()
            if self._informer.has_seen(revision):
                seen = self._claims.get(key)
                if seen is None or seen.metadata.uid != claim.metadata.uid:
                    return f"claim {key.name} is gone"
                claim = seen
            state = readiness(claim, self._clock.now(), self._patience)
            if state.is_ready:
                return ""
            if state.failure:
                await self._give_back(claim)
                return state.failure
            changed = asyncio.ensure_future(self._changed.wait())
            late = asyncio.ensure_future(self._clock.sleep(LOOK_AGAIN))
            try:
                await asyncio.wait((changed, late), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (changed, late):
                    task.cancel()
                await asyncio.gather(changed, late, return_exceptions=True)

    async def _give_back(self, claim: ResourceClaim) -> None:
        status = replace(claim.status, allocation=None, reserved_for=(), devices=())
        try:
            await self._client.update_status(replace(claim, status=status))
        except ConflictError:
            pass  # whoever changed it is told by what he finds

    async def _write(self, claim: ResourceClaim, chosen: AllocationResult | None, pod: PodInfo) -> ResourceClaim | str:
        """Make the pod a user of the claim, with the devices chosen for it if it has none yet; or why that fails."""
        for _ in range(WRITE_TRIES):
            if chosen is not None and FINALIZER not in claim.metadata.finalizers:
                finalizers = (*claim.metadata.finalizers, FINALIZER)
                claim = replace(claim, metadata=replace(claim.metadata, finalizers=finalizers))
                try:
                    claim = await self._client.update(claim)
                except ConflictError:
                    claim = await self._client.get(ResourceClaim, key_of(claim))
                    continue
            status = claim.status
            if status.allocation is None:
                if chosen is None:
                    return f"claim {claim.metadata.name} got deallocated in the meantime"
                status = replace(status, allocation=chosen)
            elif not _may_use(claim, pod):
                return "resourceclaim in use"
            if all(user.uid != pod.uid for user in status.reserved_for):
                user = ResourceClaimConsumerReference(resource="pods", name=pod.pod.metadata.name, uid=pod.uid)
                status = replace(status, reserved_for=(*status.reserved_for, user))
            if status == claim.status:
                return claim
            try:
                written = await self._client.update_status(replace(claim, status=status))
                self._devices.ledger.see(written)
                return written
            except ConflictError:
                claim = await self._client.get(ResourceClaim, key_of(claim))
        return f"claim {claim.metadata.name} changed too often while it was written"

    # --- making room -------------------------------------------------------------------------

    def post_filter(
        self, state: CycleState, pod: PodInfo, nodes: NodeTable, diagnosis: Diagnosis, filters: Filters
    ) -> PostFilterResult:
        """Give the devices of one claim back that this pod alone may use: elsewhere there may be others."""
        claims = state.get(CLAIMS)
        free = [each for each in claims.allocated if _only_user(each, pod)] if claims is not None else []
        if not free:
            return PostFilterResult(None)
        claim = self._handle.random.choice(free)

        async def deallocate() -> bool:
            await self._give_back(claim)
            return True

        return PostFilterResult(None, "deallocation of ResourceClaim completed", deallocate)


def _may_use(claim: ResourceClaim, pod: PodInfo) -> bool:
    users = claim.status.reserved_for
    return len(users) < MAX_USERS or any(user.uid == pod.uid for user in users)


def _only_user(claim: ResourceClaim, pod: PodInfo) -> bool:
    return all(user.uid == pod.uid for user in claim.status.reserved_for)
