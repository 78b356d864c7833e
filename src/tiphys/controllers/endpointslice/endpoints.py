"""Keeps the Endpoints object of every Service that has a selector equal to its pods.

The older form of EndpointSlices: one object a Service, at most 1000 addresses, terminating pods left
out. https://kubernetes.io/docs/concepts/services-networking/service/#endpoints
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import EndpointAddress, EndpointPort, Endpoints, EndpointSubset, Pod, Service
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.pods import is_ready
from tiphys.controllers.endpointslice.pods import (
    Ports,
    address_types,
    addresses,
    belongs,
    hostname_of,
    is_headless,
    ports_of,
    reference_of,
)
from tiphys.controllers.endpointslice.reconcile import HEADLESS, TRIGGER_TIME
from tiphys.controllers.endpointslice.services import selects, watch_pods
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

MAX_ADDRESSES: Final = 1000
OVER_CAPACITY: Final = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY: Final = "endpoints.kubernetes.io/managed-by"


def subsets_of(service: Service, pods: Sequence[Pod]) -> tuple[tuple[EndpointSubset, ...], bool]:
    """The subsets that name the Service's pods, and whether some were left out to stay below the limit."""
    family = address_types(service)[0]
    publish = bool(service.spec.publish_not_ready_addresses)
    ready: dict[Ports, list[EndpointAddress]] = {}
    unready: dict[Ports, list[EndpointAddress]] = {}
    for pod in pods:
        found = addresses(pod, family) if belongs(pod, with_terminating=publish) else ()
        if not found:
            continue
        ports = ports_of(pod, service)
        if service.spec.ports and not ports:
            continue
        address = EndpointAddress(
            ip=found[0],
            hostname=hostname_of(pod, service) or "",
            node_name=pod.spec.node_name or None,
            target_ref=reference_of(pod),
        )
        (ready if publish or is_ready(pod) else unready).setdefault(ports, []).append(address)
    truncated = _truncate(ready, unready)
    subsets = [
        EndpointSubset(
            addresses=_sorted(ready.get(ports, ())),
            not_ready_addresses=_sorted(unready.get(ports, ())),
            ports=_core_ports(ports),
        )
        for ports in sorted({*ready, *unready}, key=repr)
    ]
    kept = [subset for subset in subsets if subset.addresses or subset.not_ready_addresses]
    return tuple(kept), truncated


def _truncate(ready: dict[Ports, list[EndpointAddress]], unready: dict[Ports, list[EndpointAddress]]) -> bool:
    """Drop addresses beyond the limit, those not ready first."""
    surplus = sum(map(len, ready.values())) + sum(map(len, unready.values())) - MAX_ADDRESSES
    truncated = surplus > 0
    for group in (unready, ready):
        for found in group.values():
            while surplus > 0 and found:
                found.pop()
                surplus -= 1
    return truncated


def _sorted(found: Sequence[EndpointAddress]) -> tuple[EndpointAddress, ...]:
    return tuple(sorted(found, key=lambda address: (int(ip_address(address.ip)), address.hostname)))


def _core_ports(ports: Ports) -> tuple[EndpointPort, ...]:
    return tuple(
        EndpointPort(
            name=port.name or "", port=port.port or 0, protocol=port.protocol or "TCP", app_protocol=port.app_protocol
        )
        for port in ports
    )


def metadata_of(service: Service, current: ObjectMeta, truncated: bool) -> tuple[dict[str, str], dict[str, str]]:
    """(labels, annotations) of the Endpoints of a Service."""
    labels = {**service.metadata.labels, MANAGED_BY: "endpoint-controller"}
    labels.pop(HEADLESS, None)
    if is_headless(service):
        labels[HEADLESS] = ""
    annotations = {key: value for key, value in current.annotations.items() if key != OVER_CAPACITY}
    if truncated:
        annotations[OVER_CAPACITY] = "truncated"
    return labels, annotations


class EndpointsController(Controller[ObjectName]):
    """The controller `endpoints-controller`."""

    name = "endpoint"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._services = context.informers.of(Service)
        self._pods = context.informers.of(Pod)
        self._endpoints = context.informers.of(Endpoints)
        super().__init__(context.clock, (self._services, self._pods, self._endpoints))
        enqueue(self.queue, self._services)
        enqueue(self.queue, self._endpoints)
        watch_pods(self._pods, self._services.lister, self.queue.add)

    async def sync(self, key: ObjectName) -> Result:
        """Bring the Endpoints of one Service up to date."""
        service = self._services.lister.get(key)
        current = self._endpoints.lister.get(key)
        if service is None:
            if current is not None and current.metadata.labels.get(MANAGED_BY) == "endpoint-controller":
                with suppress(NotFoundError):
                    await self._client.delete(Endpoints, key)
            return DONE
        if not service.spec.selector or service.spec.type == "ExternalName":
            return DONE
        pods = [pod for pod in self._pods.lister.list(key.namespace) if selects(service, pod)]
        subsets, truncated = subsets_of(service, pods)
        known = current.metadata if current is not None else ObjectMeta(name=key.name, namespace=key.namespace)
        labels, annotations = metadata_of(service, known, truncated)
        if current is not None and _equal(current, subsets, labels, annotations):
            return DONE
        annotations[TRIGGER_TIME] = format_time(self.clock.now())
        wanted = Endpoints(metadata=replace(known, labels=labels, annotations=annotations), subsets=subsets)
        await (self._client.update(wanted) if current is not None else self._client.create(wanted))
        return DONE


def _equal(
    current: Endpoints, subsets: tuple[EndpointSubset, ...], labels: Mapping[str, str], annotations: Mapping[str, str]
) -> bool:
    return (
        current.subsets == subsets
        and dict(current.metadata.labels) == labels
        and dict(current.metadata.annotations) == annotations
    )
