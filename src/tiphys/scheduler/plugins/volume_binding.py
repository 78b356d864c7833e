"""VolumeBinding: a pod goes where its volumes are, or can be.

    claim bound                    the node must fit the volume's node affinity
    unbound, class Immediate       wait: the PV controller binds it without us
    unbound, WaitForFirstConsumer  a free volume reachable from the node, or one the provisioner can make there

Reserve picks the volumes for the chosen node, so that no other pod takes them; PreBind writes the choice and
waits until the PV controller has bound every claim. Source: "Storage Classes", Volume Binding Mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from tiphys.api.core.v1 import Node, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm
from tiphys.api.storage.v1 import StorageClass
from tiphys.client import PatchType, key_of
from tiphys.machinery.meta import ObjectName
from tiphys.scheduler.framework.events import Event, Requeue, always
from tiphys.scheduler.framework.interface import SKIP, CycleState, Reason, Refusal, Skip, StateKey, Verdict
from tiphys.scheduler.handle import Handle
from tiphys.scheduler.nodeselector import selector_mask
from tiphys.scheduler.nodetable import Mask, NodeTable
from tiphys.scheduler.podinfo import PodInfo
from tiphys.scheduler.volumes import (
    BOUND_BY_CONTROLLER,
    NO_PROVISIONER,
    SELECTED_NODE,
    can_serve,
    capacity_bytes,
    claim_names,
    class_of,
    is_bound,
    requested_bytes,
)

REASON_UNBOUND: Final = "pod has unbound immediate PersistentVolumeClaims"
REASON_AFFINITY: Final = "node(s) had volume node affinity conflict"
REASON_NO_VOLUME: Final = "node(s) didn't find available persistent volumes to bind"
REASON_GONE: Final = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
REASON_TIMEOUT: Final = "binding volumes: context deadline exceeded"
BIND_TIMEOUT: Final = 600.0  # seconds, as bindTimeoutSeconds


@dataclass(frozen=True, slots=True)
class Claims:
    """A pod's claims: those with volumes (None: the volume is gone), and those to be bound for the chosen node."""

    volumes: tuple[PersistentVolume | None, ...]
    unbound: tuple[PersistentVolumeClaim, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What Reserve decided for a node: volumes for some claims, provisioning for the others."""

    bind: tuple[tuple[PersistentVolumeClaim, PersistentVolume], ...]
    provision: tuple[PersistentVolumeClaim, ...]


CLAIMS: Final[StateKey[Claims]] = StateKey("VolumeBinding")


class VolumeBinding:
    name: ClassVar[str] = "VolumeBinding"
    requeue_on: ClassVar[Requeue] = {
        Event.CLAIM: always,
        Event.VOLUME: always,
        Event.STORAGE_CLASS: always,
        Event.NODE_ADD: always,
        Event.NODE_LABEL: always,
        Event.TARGET_POD_UPDATE: always,
    }

    def __init__(self, handle: Handle, bind_timeout: float = BIND_TIMEOUT) -> None:
        """`bind_timeout` in seconds."""
        self._client = handle.client
        self._writes = handle.writes
        self._clock = handle.clock
        self._bind_timeout = bind_timeout
        claims = handle.informers.of(PersistentVolumeClaim)
        self._claims = claims.lister
        self._volumes = handle.informers.of(PersistentVolume).lister
        self._nodes = handle.informers.of(Node).lister
        self._classes = handle.informers.of(StorageClass).lister
        self._choices: dict[str, Choice] = {}  # by pod uid
        self._taken: dict[str, str] = {}  # volume -> pod uid it is reserved for
        self._changed = asyncio.Event()
        claims.add_handler(lambda _: self._changed.set(), lambda _, __: self._changed.set())

    # Deciding

    def pre_filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Refusal | Skip | None:
        names = claim_names(pod.pod)
        if not names:
            return SKIP
        volumes: list[PersistentVolume | None] = []
        unbound: list[PersistentVolumeClaim] = []
        for name, ephemeral in names:
            claim = self._claims.get(ObjectName(pod.namespace, name))
            refusal = _unusable(name, ephemeral, claim, pod)
            if refusal:
                return Refusal(refusal)
            assert claim is not None
            if is_bound(claim):
                volumes.append(self._volumes.get(ObjectName("", claim.spec.volume_name)))
            elif claim.spec.volume_name or not self._waits_for_pod(claim):
                return Refusal(REASON_UNBOUND)
            else:
                unbound.append(claim)
        # The smallest first takes the smallest volume, which leaves the most for the others.
        state.write(CLAIMS, Claims(tuple(volumes), tuple(sorted(unbound, key=requested_bytes))))
        return None

    def _waits_for_pod(self, claim: PersistentVolumeClaim) -> bool:
        found = self._classes.get(ObjectName("", class_of(claim)))
        return found is not None and found.volume_binding_mode == "WaitForFirstConsumer"

    def filter(self, state: CycleState, pod: PodInfo, nodes: NodeTable) -> Verdict | None:
        claims = state.read(CLAIMS)
        nothing = np.zeros(nodes.width, dtype=np.bool_)
        gone = ~nothing if None in claims.volumes else nothing
        conflict = nothing.copy()
        for volume in claims.volumes:
            if volume is not None:
                conflict |= ~reachable(nodes, volume)
        served = self._can_bind(claims.unbound, pod, nodes)

        def explain(rejected: Mask) -> list[Reason]:
            reasons = [
                Reason(REASON_GONE, rejected & gone, False),
                Reason(REASON_AFFINITY, rejected & conflict, False),
                Reason(REASON_NO_VOLUME, rejected & ~served, False),
            ]
            return [reason for reason in reasons if reason.rows.any()]

        return Verdict(~gone & ~conflict & served, explain, resolvable=False)

    def _can_bind(self, unbound: Iterable[PersistentVolumeClaim], pod: PodInfo, nodes: NodeTable) -> Mask:
        """Rows where every unbound claim finds a volume of its own or can be provisioned."""
        result = np.ones(nodes.width, dtype=np.bool_)
        used: dict[str, Mask] = {}
        for claim in unbound:
            selected = claim.metadata.annotations.get(SELECTED_NODE)
            if selected is not None:
                # The provisioner is at work for this node already.
                result &= nodes.mask_of({nodes.row_of[selected]} if selected in nodes.row_of else set())
                continue
            matched = np.zeros(nodes.width, dtype=np.bool_)
            for volume in self._candidates(claim, pod):
                name = volume.metadata.name
                taken = used.get(name)
                rows = reachable(nodes, volume) & ~matched
                if taken is not None:
                    rows &= ~taken
                matched |= rows
                used[name] = rows if taken is None else taken | rows
            result &= matched | self._provisionable(claim, nodes)
        return result

    def _candidates(self, claim: PersistentVolumeClaim, pod: PodInfo) -> list[PersistentVolume]:
        """Volumes for a claim, the smallest first; those reserved for other pods are not."""
        found = [
            volume
            for volume in self._volumes.list()
            if self._taken.get(volume.metadata.name, pod.uid) == pod.uid and can_serve(volume, claim)
        ]
        return sorted(found, key=capacity_bytes)

    def _provisionable(self, claim: PersistentVolumeClaim, nodes: NodeTable) -> Mask:
        storage_class = self._classes.get(ObjectName("", class_of(claim)))
        if storage_class is None or storage_class.provisioner in ("", NO_PROVISIONER):
            return np.zeros(nodes.width, dtype=np.bool_)
        if not storage_class.allowed_topologies:
            return np.ones(nodes.width, dtype=np.bool_)
        allowed = np.zeros(nodes.width, dtype=np.bool_)
        for term in storage_class.allowed_topologies:
            allowed |= topology_mask(nodes, term)
        return allowed

    # Reserving and binding

    def reserve(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        claims = state.get(CLAIMS)
        if claims is None or not claims.unbound:
            return None
        bind: list[tuple[PersistentVolumeClaim, PersistentVolume]] = []
        provision: list[PersistentVolumeClaim] = []
        for claim in claims.unbound:
            volume = self._volume_for(claim, pod, node, {one.metadata.name for _, one in bind})
            if volume is None:
                provision.append(claim)
            else:
                bind.append((claim, volume))
        self._choices[pod.uid] = Choice(tuple(bind), tuple(provision))
        for _, volume in bind:
            self._taken[volume.metadata.name] = pod.uid
        return None

    def _volume_for(
        self, claim: PersistentVolumeClaim, pod: PodInfo, node: str, used: set[str]
    ) -> PersistentVolume | None:
        if SELECTED_NODE in claim.metadata.annotations:
            return None
        for volume in self._candidates(claim, pod):
            if volume.metadata.name not in used and self._reaches(volume, node):
                return volume
        return None

    def _reaches(self, volume: PersistentVolume, node: str) -> bool:
        affinity = volume.spec.node_affinity
        if affinity is None or affinity.required is None:
            return True
        known = self._nodes.get(ObjectName("", node))
        if known is None:
            return False
        alone = NodeTable()
        alone.set_node(known)
        return bool(selector_mask(alone, affinity.required)[0])

    def unreserve(self, state: CycleState, pod: PodInfo, node: str) -> None:
        choice = self._choices.pop(pod.uid, None)
        for _, volume in choice.bind if choice else ():
            self._taken.pop(volume.metadata.name, None)

    def pre_bind_pre_flight(self, state: CycleState, pod: PodInfo, node: str) -> bool:
        return pod.uid in self._choices

    async def pre_bind(self, state: CycleState, pod: PodInfo, node: str) -> Refusal | None:
        choice = self._choices.get(pod.uid)
        if choice is None:
            return None
        async with self._writes:
            for claim, volume in choice.bind:
                await self._bind_volume(claim, volume)
            for claim in choice.provision:
                if claim.metadata.annotations.get(SELECTED_NODE) != node:
                    patch = {"metadata": {"annotations": {SELECTED_NODE: node}}}
                    await self._client.patch(PersistentVolumeClaim, key_of(claim), patch)
        wanted = [claim for claim, _ in choice.bind] + list(choice.provision)
        bound = asyncio.ensure_future(self._wait_bound(wanted))
        late = asyncio.ensure_future(self._clock.sleep(self._bind_timeout))
        try:
            await asyncio.wait((bound, late), return_when=asyncio.FIRST_COMPLETED)
            return None if bound.done() else Refusal(REASON_TIMEOUT)
        finally:
            for task in (bound, late):
                task.cancel()
            await asyncio.gather(bound, late, return_exceptions=True)
            self.unreserve(state, pod, node)

    async def _bind_volume(self, claim: PersistentVolumeClaim, volume: PersistentVolume) -> None:
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": claim.metadata.namespace,
            "name": claim.metadata.name,
            "uid": claim.metadata.uid,
            "resourceVersion": claim.metadata.resource_version,
        }
        patch = {
            # Someone else may have taken it meanwhile: then this is a conflict, and the pod is tried again.
            "metadata": {
                "resourceVersion": volume.metadata.resource_version,
                "annotations": {BOUND_BY_CONTROLLER: "yes"},
            },
            "spec": {"claimRef": reference},
        }
        await self._client.patch(PersistentVolume, key_of(volume), patch, patch_type=PatchType.MERGE)

    async def _wait_bound(self, claims: Iterable[PersistentVolumeClaim]) -> None:
        """Until the PV controller has bound every claim."""
        waiting = [key_of(claim) for claim in claims]
        while True:
            self._changed.clear()
            waiting = [key for key in waiting if (found := self._claims.get(key)) is None or not is_bound(found)]
            if not waiting:
                return
            await self._changed.wait()


def _unusable(name: str, ephemeral: bool, claim: PersistentVolumeClaim | None, pod: PodInfo) -> str:
    """Why a claim keeps the pod from being scheduled anywhere; empty when it does not."""
    if claim is None:
        if ephemeral:
            return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'
        return f'persistentvolumeclaim "{name}" not found'
    if claim.status.phase == "Lost":
        volume = claim.spec.volume_name
        return f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
    if claim.metadata.deletion_timestamp is not None:
        return f'persistentvolumeclaim "{name}" is being deleted'
    owners = [owner.uid for owner in claim.metadata.owner_references if owner.controller]
    if ephemeral and owners != [pod.uid]:
        return f"PVC {claim.metadata.namespace}/{name} was not created for pod {pod.key} (pod is not owner)"
    return ""


def reachable(nodes: NodeTable, volume: PersistentVolume) -> Mask:
    """Rows from which a volume can be reached."""
    affinity = volume.spec.node_affinity
    if affinity is None or affinity.required is None:
        return np.ones(nodes.width, dtype=np.bool_)
    required = affinity.required
    key = ("volume", volume.metadata.uid, volume.metadata.resource_version)
    return nodes.remember(key, lambda: selector_mask(nodes, required))


def topology_mask(nodes: NodeTable, term: TopologySelectorTerm) -> Mask:
    """Rows whose labels satisfy all expressions of an allowed topology."""
    result = np.ones(nodes.width, dtype=np.bool_)
    for expression in term.match_label_expressions:
        numbers = [nodes.column(expression.key).values.get(value, -1) for value in expression.values]
        result &= np.isin(nodes.label_ids(expression.key), numbers)
    return result
