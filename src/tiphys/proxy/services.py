"""API objects → the proxy's values: Services to service ports, EndpointSlices to endpoints. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from tiphys.api.core.v1 import Service
from tiphys.api.discovery.v1 import Endpoint as ApiEndpoint
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.proxy.model import Endpoint, PortKey, ServiceKey, ServicePort

# Another proxy is meant, or a headless Service: not ours.
# https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name
OTHER_PROXY_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
DEFAULT_AFFINITY_SECONDS: Final = 10800


def key_of_service(service: Service) -> ServiceKey:
    return ServiceKey(service.metadata.namespace, service.metadata.name)


def key_of_slice(piece: EndpointSlice) -> ServiceKey | None:
    """The Service a slice belongs to; None for a slice of nobody or one meant for another proxy."""
    labels = piece.metadata.labels
    name = labels.get(SERVICE_NAME_LABEL, "")
    if not name or OTHER_PROXY_LABEL in labels or HEADLESS_LABEL in labels:
        return None
    return ServiceKey(piece.metadata.namespace, name)


def service_ports(service: Service, family: int = 4) -> tuple[ServicePort, ...]:
    """The ports of a Service in one address family; none for headless and ExternalName Services."""
    spec = service.spec
    if spec.type == "ExternalName" or OTHER_PROXY_LABEL in service.metadata.labels:
        return ()
    cluster_ip = _first(spec.cluster_ips or (spec.cluster_ip,), family)
    if not cluster_ip:
        return ()
    balanced: tuple[str, ...] = ()
    if spec.type == "LoadBalancer" and service.status.load_balancer is not None:
        # ipMode Proxy: the balancer itself speaks to the pods or node ports, we must not catch its address.
        balanced = tuple(
            each.ip
            for each in service.status.load_balancer.ingress
            if each.ip and _is_family(each.ip, family) and each.ip_mode != "Proxy"
        )
    is_external_type = spec.type in ("NodePort", "LoadBalancer")
    return tuple(
        ServicePort(
            key=PortKey(key_of_service(service), port.name or "", (port.protocol or "TCP").lower()),
            cluster_ip=cluster_ip,
            port=port.port,
            node_port=(port.node_port or 0) if is_external_type else 0,
            external_ips=tuple(ip for ip in spec.external_ips if _is_family(ip, family)),
            load_balancer_ips=balanced,
            load_balancer_source_ranges=tuple(cidr.strip() for cidr in spec.load_balancer_source_ranges),
            internal_local=spec.internal_traffic_policy == "Local",
            external_local=spec.external_traffic_policy == "Local",
            affinity_seconds=_affinity(service),
            health_check_node_port=spec.health_check_node_port or 0,
        )
        for port in spec.ports
    )


def service_networks(cidrs: Iterable[str], family: int = 4) -> tuple[str, ...]:
    """The ranges of one address family, none of them within another, in order."""
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    own = ipaddress.collapse_addresses([each for each in networks if each.version == family])  # type: ignore[type-var]  # typeshed wants one family
    return tuple(str(each) if each.num_addresses > 1 else str(each.network_address) for each in own)


def endpoints_of(slices: Iterable[EndpointSlice], port: PortKey, node: str, family: int = 4) -> list[Endpoint]:
    """The endpoints behind one service port, each address and port once, in a stable order."""
    found: dict[tuple[str, int], Endpoint] = {}
    for piece in slices:
        if piece.address_type != f"IPv{family}":
            continue
        for number in _ports(piece, port):
            for endpoint in piece.endpoints:
                if endpoint.addresses:
                    made = _endpoint(endpoint, number, node)
                    # The same address in two slices while it moves: a ready one wins.
                    if made.ready or (made.ip, number) not in found:
                        found[(made.ip, number)] = made
    return [found[key] for key in sorted(found)]


def _ports(piece: EndpointSlice, port: PortKey) -> Sequence[int]:
    return [
        each.port
        for each in piece.ports
        if (each.name or "") == port.port and (each.protocol or "TCP").lower() == port.protocol and each.port
    ]


def _endpoint(endpoint: ApiEndpoint, number: int, node: str) -> Endpoint:
    conditions, hints = endpoint.conditions, endpoint.hints
    # Unknown is to be taken for ready; serving follows ready, and terminating is the exception.
    ready = conditions is None or conditions.ready is not False
    serving = ready if conditions is None or conditions.serving is None else conditions.serving
    return Endpoint(
        ip=endpoint.addresses[0],
        port=number,
        ready=ready,
        serving=serving,
        terminating=conditions is not None and bool(conditions.terminating),
        is_local=endpoint.node_name == node,
        zones=frozenset(zone.name for zone in hints.for_zones) if hints is not None else frozenset(),
        nodes=frozenset(each.name for each in hints.for_nodes) if hints is not None else frozenset(),
    )


def _affinity(service: Service) -> int:
    if service.spec.session_affinity != "ClientIP":
        return 0
    config = service.spec.session_affinity_config
    if config is None or config.client_ip is None or config.client_ip.timeout_seconds is None:
        return DEFAULT_AFFINITY_SECONDS
    return config.client_ip.timeout_seconds


def _first(addresses: Iterable[str], family: int) -> str:
    return next((each for each in addresses if each not in ("", "None") and _is_family(each, family)), "")


def _is_family(address: str, family: int) -> bool:
    return ipaddress.ip_address(address).version == family
