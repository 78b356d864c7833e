"""The claims of pods on this node, from the API's allocation to names of devices in a container.

1. before a pod's sandbox is made its claims are read; each must have devices and the pod among its users;
2. each driver is asked to prepare what is its own; what it answers is written down before anything starts;
3. a container that names a claim (and perhaps one of its requests) gets the CDI names of those devices;
4. when no pod here uses a claim any more its drivers are asked to take the devices back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import EphemeralContainer, Pod
from tiphys.api.dra import dra_pb2 as dra
from tiphys.api.resource.v1 import ResourceClaim
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Client
from tiphys.kubelet.dra.drivers import DriverError, Drivers
from tiphys.kubelet.dra.prepared import NAME, PreparedClaim, PreparedDevice, load, save
from tiphys.kubelet.pod import AnyContainer, PodUID, uid_of
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

RETRY: Final = 10.0  # seconds between tries to give back what a driver would not take


class PrepareError(Exception):
    """The pod cannot start yet; it is tried again."""


class ClaimManager:
    """One for the node."""

    def __init__(self, client: Client, clock: Clock, root: Path, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._path = root / NAME
        self.drivers = Drivers(client, clock, node_name)
        self._claims = load(self._path)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by claim uid
        self._left = asyncio.Event()

    async def run(self) -> None:
        """Give back what no pod uses, until cancelled: what was left by a kubelet before, or refused by a driver."""
        while True:
            self._left.clear()
            for claim in [each for each in self._claims.values() if not each.pods]:
                try:
                    await self._give_back(claim)
                except DriverError as error:
                    log.warning("claim %s/%s: %s", claim.namespace, claim.name, error)
            if any(not each.pods for each in self._claims.values()):
                await self._clock.sleep(RETRY)
            else:
                await self._left.wait()

    # --- a pod starts ------------------------------------------------------------------------

    async def prepare(self, pod: Pod) -> None:
        """Make the devices of all its claims ready. Raises PrepareError."""
        for name in claim_names(pod).values():
            try:
                claim = await self._client.get(ResourceClaim, ObjectName(pod.metadata.namespace, name))
            except (StatusError, ApiConnectionError) as error:
                raise PrepareError(f"fetch ResourceClaim {pod.metadata.namespace}/{name}: {error}") from error
            async with self._locks[claim.metadata.uid]:
                await self._prepare(pod, claim)

    async def _prepare(self, pod: Pod, claim: ResourceClaim) -> None:
        name = claim.metadata.name
        if claim.status.allocation is None or claim.status.allocation.devices is None:
            raise PrepareError(f"ResourceClaim {name} is not allocated")
        if all(user.uid != pod.metadata.uid for user in claim.status.reserved_for):
            user = f"pod {pod.metadata.name} ({pod.metadata.uid})"
            raise PrepareError(f"{user} is not allowed to use ResourceClaim {name}")
        known = self._claims.get(claim.metadata.uid)
        if known is None:
            known = PreparedClaim(claim.metadata.namespace, name, claim.metadata.uid)
        if uid_of(pod) not in known.pods:
            known.pods.append(uid_of(pod))
        drivers = list(dict.fromkeys(each.driver for each in claim.status.allocation.devices.results))
        if known.ready and set(drivers) <= known.drivers.keys():
            await self._save(known)
            return
        # Before anybody is asked: whoever was asked must be asked to give back.
        for driver in drivers:
            known.drivers.setdefault(driver, [])
        await self._save(known)
        request = dra.Claim(namespace=known.namespace, name=known.name, uid=known.uid)
        for driver in drivers:
            try:
                answers = await self.drivers.named(driver).prepare([request])
            except DriverError as error:
                raise PrepareError(str(error)) from error
            known.drivers[driver] = [_device(each) for each in answers[known.uid].devices]
        known.ready = True
        await self._save(known)

    def devices_for(self, pod: Pod, container: AnyContainer) -> list[str]:
        """CDI names for a container that is about to start. Raises PrepareError when they are not known."""
        found: list[str] = []
        for name, request in _wishes(pod, container):
            prepared = self._used_by(pod, name)
            if prepared is None or not prepared.ready:
                raise PrepareError(f"unable to get resource for claim {name}: it is not prepared")
            found += prepared.cdi_for(request)
        return list(dict.fromkeys(found))

    def held_by(self, pod: Pod, container: AnyContainer) -> Iterator[tuple[PreparedClaim, str]]:
        """The prepared claims that a container names, and which request of each ("": all)."""
        for name, request in _wishes(pod, container):
            prepared = self._used_by(pod, name)
            if prepared is not None and prepared.ready:
                yield prepared, request

    def _used_by(self, pod: Pod, name: str) -> PreparedClaim | None:
        """The claim of a name that the pod uses; one of that name that was there before is another."""
        for each in self._claims.values():
            if (each.namespace, each.name) == (pod.metadata.namespace, name) and uid_of(pod) in each.pods:
                return each
        return None

    # --- a pod has ended ---------------------------------------------------------------------

    async def unprepare(self, uid: PodUID) -> None:
        """The pod uses its claims no more. Raises PrepareError when a driver would not take them back."""
        for claim in [each for each in self._claims.values() if uid in each.pods]:
            async with self._locks[claim.uid]:
                claim.pods.remove(uid)
                try:
                    if not claim.pods:
                        await self._give_back(claim)
                    else:
                        await self._save(claim)
                except DriverError as error:
                    claim.pods.append(uid)
                    raise PrepareError(str(error)) from error

    def forget_others(self, active: Sequence[PodUID]) -> None:
        """Pods that are gone use nothing: what a kubelet before this one did not come to."""
        for claim in self._claims.values():
            claim.pods = [uid for uid in claim.pods if uid in active]
        self._left.set()

    async def _give_back(self, claim: PreparedClaim) -> None:
        request = dra.Claim(namespace=claim.namespace, name=claim.name, uid=claim.uid)
        for driver in list(claim.drivers):
            await self.drivers.named(driver).unprepare([request])
            del claim.drivers[driver]
        self._claims.pop(claim.uid, None)
        self._locks.pop(claim.uid, None)
        await asyncio.to_thread(save, self._path, dict(self._claims))

    async def _save(self, claim: PreparedClaim) -> None:
        self._claims[claim.uid] = claim
        await asyncio.to_thread(save, self._path, dict(self._claims))


def _wishes(pod: Pod, container: AnyContainer) -> Iterator[tuple[str, str]]:
    """(claim, request) of what a container names; none for a claim whose template says that none is needed."""
    extended = pod.status.extended_resource_claim_status
    if extended is not None:
        for mapping in extended.request_mappings:
            if mapping.container_name == container.name:
                yield extended.resource_claim_name, mapping.request_name
    if isinstance(container, EphemeralContainer) or container.resources is None:
        return
    names = claim_names(pod)
    for wish in container.resources.claims:
        if wish.name in names:
            yield names[wish.name], wish.request


def claim_names(pod: Pod) -> dict[str, str]:
    """The names of the claims by the names the pod has for them; one whose template needed none is left out."""
    statuses = {one.name: one.resource_claim_name for one in pod.status.resource_claim_statuses}
    wishes = {wish.name: wish.resource_claim_name or statuses.get(wish.name) for wish in pod.spec.resource_claims}
    if pod.status.extended_resource_claim_status is not None:
        # Of the extended resources that devices serve; the pod has no name for it.
        wishes[""] = pod.status.extended_resource_claim_status.resource_claim_name
    return {wish: name for wish, name in wishes.items() if name}


def _device(given: dra.Device) -> PreparedDevice:
    return PreparedDevice(
        list(given.request_names), given.pool_name, given.device_name, list(given.cdi_device_ids), given.share_id
    )
