"""Keeps the EndpointSlices of every Service that has a selector equal to its pods.

Level-driven, one Service at a time. After a write it waits until its cache shows that write, so
that it never decides from slices it has already changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from tiphys.api.core.v1 import Node, Pod, Service
from tiphys.api.discovery.v1 import Endpoint, EndpointSlice
from tiphys.client import DONE, Client, Controller, Result, SharedInformer, enqueue, key_of
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.owners import controller_reference
from tiphys.controllers.endpointslice.pods import Ports, address_types, belongs, endpoint_of, is_headless, ports_of
from tiphys.controllers.endpointslice.reconcile import HEADLESS, MANAGED_BY, SERVICE_NAME, Owner, Plan, plan
from tiphys.controllers.endpointslice.services import selects, watch_pods
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

MANAGER = "endpointslice-controller.k8s.io"
BY_SERVICE = "service"


def index_by_service(slices: SharedInformer[EndpointSlice]) -> None:
    """File slices under namespace/service."""

    def service(one: EndpointSlice) -> Iterable[str]:
        name = one.metadata.labels.get(SERVICE_NAME)
        return (f"{one.metadata.namespace}/{name}",) if name else ()

    slices.add_index(BY_SERVICE, service)


class EndpointSliceController(Controller[ObjectName]):
    """The controller `endpointslice-controller`."""

    name = "endpoint_slice"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._limit = context.options.max_endpoints_per_slice
        self._services = context.informers.of(Service)
        self._pods = context.informers.of(Pod)
        self._nodes = context.informers.of(Node)
        self._slices = context.informers.of(EndpointSlice)
        super().__init__(context.clock, (self._services, self._pods, self._nodes, self._slices))
        self._written: dict[ObjectName, str] = {}
        index_by_service(self._slices)
        enqueue(self.queue, self._services)
        watch_pods(self._pods, self._services.lister, self.queue.add)
        self._slices.add_handler(self._slice_changed, lambda _, new: self._slice_changed(new), self._slice_changed)
        self._nodes.add_handler(on_update=self._node_updated)

    def _slice_changed(self, one: EndpointSlice) -> None:
        name = one.metadata.labels.get(SERVICE_NAME)
        if name and one.metadata.labels.get(MANAGED_BY) == MANAGER:
            self.queue.add(ObjectName(one.metadata.namespace, name))

    def _node_updated(self, old: Node, new: Node) -> None:
        """Zones are part of endpoints; a node rarely changes its zone."""
        zone = "topology.kubernetes.io/zone"
        if old.metadata.labels.get(zone) != new.metadata.labels.get(zone):
            for service in self._services.lister.list():
                self.queue.add(key_of(service))

    async def sync(self, key: ObjectName) -> Result:
        """Bring the slices of one Service up to date."""
        service = self._services.lister.get(key)
        if service is None or service.metadata.deletion_timestamp is not None:
            # The garbage collector takes the slices of a Service that is gone.
            self._written.pop(key, None)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName":
            return DONE
        if not self._slices.has_seen(self._written.get(key, "")):
            return DONE
        existing = [
            one
            for one in self._slices.lister.by_index(BY_SERVICE, str(key))
            if one.metadata.labels.get(MANAGED_BY) == MANAGER and one.metadata.deletion_timestamp is None
        ]
        families = address_types(service)
        for family in families:
            mine = [one for one in existing if one.address_type == family]
            changes = plan(self._owner(service), family, self._wanted(service, family), mine, self._limit)
            await self._apply(key, changes)
        await self._apply(key, Plan(delete=[one for one in existing if one.address_type not in families]))
        return DONE

    def _wanted(self, service: Service, family: str) -> dict[Ports, list[Endpoint]]:
        wanted: dict[Ports, list[Endpoint]] = {}
        for pod in self._pods.lister.list(service.metadata.namespace):
            if not selects(service, pod) or not belongs(pod, with_terminating=True):
                continue
            node = self._nodes.lister.get(ObjectName("", pod.spec.node_name))
            endpoint = endpoint_of(pod, service, node, family)
            if endpoint is not None:
                wanted.setdefault(ports_of(pod, service), []).append(endpoint)
        return wanted

    def _owner(self, service: Service) -> Owner:
        # The controller's own labels win over those copied from the Service.
        labels = {**service.metadata.labels, SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}
        labels.pop(HEADLESS, None)
        if is_headless(service):
            labels[HEADLESS] = ""
        return Owner(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            labels=labels,
            reference=controller_reference(service),
            trigger_time=format_time(self.clock.now()),
        )

    async def _apply(self, key: ObjectName, changes: Plan) -> None:
        version = await apply_plan(self._client, changes)
        if version:
            self._written[key] = version


async def apply_plan(client: Client, changes: Plan) -> str:
    """Write the changes; returns the newest resource version written, "" when nothing was."""
    version = ""
    for one in changes.create:
        version = (await client.create(one)).metadata.resource_version
    for one in changes.update:
        version = (await client.update(one)).metadata.resource_version
    for one in changes.delete:
        with suppress(NotFoundError):
            await client.delete(EndpointSlice, key_of(one))
    return version
