"""From a pod and a Service to an endpoint: its address, ports and conditions. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from tiphys.api.core.v1 import Container, Node, ObjectReference, Pod, Service, ServicePort
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone
from tiphys.controllers.common.pods import is_finished, is_ready

ZONE_LABEL: Final = "topology.kubernetes.io/zone"
Ports = tuple[EndpointPort, ...]


def belongs(pod: Pod, *, with_terminating: bool) -> bool:
    """Whether a pod has an address worth naming."""
    if is_finished(pod) or not (pod.status.pod_ip or pod.status.pod_ips):
        return False
    return with_terminating or pod.metadata.deletion_timestamp is None


def addresses(pod: Pod, address_type: str) -> tuple[str, ...]:
    """The pod's addresses of a family (IPv4 or IPv6)."""
    found = [entry.ip for entry in pod.status.pod_ips] or [pod.status.pod_ip]
    return tuple(address for address in found if address and family_of(address) == address_type)


def family_of(address: str) -> str:
    """IPv4 or IPv6; raises ValueError for what is no address."""
    return f"IPv{ipaddress.ip_address(address).version}"


def ports_of(pod: Pod, service: Service) -> Ports:
    """The Service's ports as this pod has them; one whose name the pod does not know is left out."""
    found = []
    for port in service.spec.ports:
        number = port_number(pod, port)
        if number is not None:
            found.append(
                EndpointPort(
                    name=port.name, protocol=port.protocol or "TCP", port=number, app_protocol=port.app_protocol
                )
            )
    return tuple(found)


def port_number(pod: Pod, port: ServicePort) -> int | None:
    """The port in the pod that a Service's port means; named ones are looked up in its containers."""
    target = port.target_port if port.target_port is not None else port.port
    if isinstance(target, int):
        return target or port.port
    for container in _serving_containers(pod):
        for declared in container.ports:
            if declared.name == target and (declared.protocol or "TCP") == (port.protocol or "TCP"):
                return declared.container_port
    return None


def _serving_containers(pod: Pod) -> Iterator[Container]:
    yield from pod.spec.containers
    yield from (container for container in pod.spec.init_containers if container.restart_policy == "Always")


def endpoint_of(pod: Pod, service: Service, node: Node | None, address_type: str) -> Endpoint | None:
    """The pod as an endpoint; None when it has no address of the family."""
    found = addresses(pod, address_type)
    if not found:
        return None
    serving = is_ready(pod)
    terminating = pod.metadata.deletion_timestamp is not None
    ready = bool(service.spec.publish_not_ready_addresses) or (serving and not terminating)
    zone = node.metadata.labels.get(ZONE_LABEL) if node is not None else None
    return Endpoint(
        addresses=found,
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=hostname_of(pod, service),
        node_name=pod.spec.node_name or None,
        zone=zone,
        target_ref=reference_of(pod),
        hints=_hints(service, zone, pod.spec.node_name) if ready else None,
    )


def hostname_of(pod: Pod, service: Service) -> str | None:
    """The pod's name in DNS below the Service, for pods whose subdomain is the Service."""
    same = pod.spec.subdomain == service.metadata.name and pod.metadata.namespace == service.metadata.namespace
    return pod.spec.hostname if pod.spec.hostname and same else None


def reference_of(pod: Pod) -> ObjectReference:
    """What an address points back to."""
    return ObjectReference(kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid)


def _hints(service: Service, zone: str | None, node: str) -> EndpointHints | None:
    """Who should use the endpoint: https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-distribution"""
    wanted = service.spec.traffic_distribution
    zones = (ForZone(name=zone),) if zone else ()
    if wanted in ("PreferClose", "PreferSameZone"):
        return EndpointHints(for_zones=zones) if zones else None
    if wanted == "PreferSameNode" and node:
        return EndpointHints(for_zones=zones, for_nodes=(ForNode(name=node),))
    return None


def is_headless(service: Service) -> bool:
    """Whether the Service has no virtual address."""
    return service.spec.cluster_ip == "None"


def address_types(service: Service) -> tuple[str, ...]:
    """The families of the Service's slices."""
    if service.spec.ip_families:
        return service.spec.ip_families
    if service.spec.cluster_ip and not is_headless(service):
        return (family_of(service.spec.cluster_ip),)
    return ("IPv4",)
