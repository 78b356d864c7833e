"""Mirrors Endpoints that users write, for Services without a selector, into EndpointSlices.

https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#endpointslice-mirroring
"""

from __future__ import annotations

from typing import Final

from tiphys.api.core.v1 import EndpointAddress, Endpoints, EndpointSubset, Service
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.common.owners import controller_reference
from tiphys.controllers.endpointslice.controller import BY_SERVICE, apply_plan, index_by_service
from tiphys.controllers.endpointslice.pods import Ports, family_of
from tiphys.controllers.endpointslice.reconcile import MANAGED_BY, SERVICE_NAME, TRIGGER_TIME, Owner, Plan, plan
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

MANAGER: Final = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR: Final = "endpointslice.kubernetes.io/skip-mirror"
LEADER: Final = "control-plane.alpha.kubernetes.io/leader"
MAX_PER_SUBSET: Final = 1000
NOT_COPIED: Final = frozenset({TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration"})


def should_mirror(endpoints: Endpoints) -> bool:
    """Whether these Endpoints ask not to be mirrored, or are a lock of an old leader election."""
    return endpoints.metadata.labels.get(SKIP_MIRROR) != "true" and LEADER not in endpoints.metadata.annotations


def wanted_of(endpoints: Endpoints, family: str) -> dict[Ports, list[Endpoint]]:
    """The endpoints of one address family by their ports."""
    wanted: dict[Ports, list[Endpoint]] = {}
    for subset in endpoints.subsets:
        mirrored = [
            *(_mirror(address, ready=True) for address in subset.addresses if family_of(address.ip) == family),
            *(
                _mirror(address, ready=False)
                for address in subset.not_ready_addresses
                if family_of(address.ip) == family
            ),
        ]
        if mirrored:
            wanted.setdefault(_ports(subset), []).extend(mirrored[:MAX_PER_SUBSET])
    return wanted


def _mirror(address: EndpointAddress, *, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=(address.ip,),
        conditions=EndpointConditions(ready=ready),
        hostname=address.hostname or None,
        node_name=address.node_name,
        target_ref=address.target_ref,
    )


def _ports(subset: EndpointSubset) -> Ports:
    return tuple(
        EndpointPort(name=port.name, port=port.port, protocol=port.protocol or "TCP", app_protocol=port.app_protocol)
        for port in subset.ports
    )


class EndpointSliceMirroringController(Controller[ObjectName]):
    """The controller `endpointslice-mirroring-controller`."""

    name = "endpoint_slice_mirroring"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._services = context.informers.of(Service)
        self._endpoints = context.informers.of(Endpoints)
        self._slices = context.informers.of(EndpointSlice)
        super().__init__(context.clock, (self._services, self._endpoints, self._slices))
        self._written: dict[ObjectName, str] = {}
        index_by_service(self._slices)
        enqueue(self.queue, self._services)
        enqueue(self.queue, self._endpoints)
        self._slices.add_handler(self._slice_changed, lambda _, new: self._slice_changed(new), self._slice_changed)

    def _slice_changed(self, one: EndpointSlice) -> None:
        name = one.metadata.labels.get(SERVICE_NAME)
        if name and one.metadata.labels.get(MANAGED_BY) == MANAGER:
            self.queue.add(ObjectName(one.metadata.namespace, name))

    async def sync(self, key: ObjectName) -> Result:
        """Bring the mirrored slices of one Service up to date."""
        if not self._slices.has_seen(self._written.get(key, "")):
            return DONE
        existing = [
            one
            for one in self._slices.lister.by_index(BY_SERVICE, str(key))
            if one.metadata.labels.get(MANAGED_BY) == MANAGER and one.metadata.deletion_timestamp is None
        ]
        endpoints = self._endpoints.lister.get(key)
        service = self._services.lister.get(key)
        if endpoints is None or service is None or service.spec.selector or not should_mirror(endpoints):
            await self._apply(key, Plan(delete=existing))
            return DONE
        for family in ("IPv4", "IPv6"):
            wanted = wanted_of(endpoints, family)
            mine = [one for one in existing if one.address_type == family]
            if wanted:
                await self._apply(key, plan(self._owner(endpoints), family, wanted, mine, MAX_PER_SUBSET))
            else:
                await self._apply(key, Plan(delete=mine))
        return DONE

    def _owner(self, endpoints: Endpoints) -> Owner:
        labels = {**endpoints.metadata.labels, SERVICE_NAME: endpoints.metadata.name, MANAGED_BY: MANAGER}
        annotations = {key: value for key, value in endpoints.metadata.annotations.items() if key not in NOT_COPIED}
        return Owner(
            name=endpoints.metadata.name,
            namespace=endpoints.metadata.namespace,
            labels=labels,
            reference=controller_reference(endpoints),
            trigger_time=endpoints.metadata.annotations.get(TRIGGER_TIME) or format_time(self.clock.now()),
            annotations=annotations,
        )

    async def _apply(self, key: ObjectName, changes: Plan) -> None:
        version = await apply_plan(self._client, changes)
        if version:
            self._written[key] = version
