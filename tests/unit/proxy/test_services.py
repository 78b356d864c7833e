"""API objects as the proxy's values."""

from __future__ import annotations

from typing import Any

import pytest

from tiphys.api.core.v1 import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus
from tiphys.api.core.v1 import ServicePort as ApiPort
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.proxy.config import ConfigError, check_mode
from tiphys.proxy.conntrack import Entry, is_stale
from tiphys.proxy.model import PortKey, ServiceKey
from tiphys.proxy.services import endpoints_of, service_networks, service_ports

KEY = ServiceKey("default", "web")


def service(labels: dict[str, str] | None = None, status: ServiceStatus | None = None, **spec: Any) -> Service:
    values = {"cluster_ip": "10.96.0.1", "cluster_ips": ("10.96.0.1",), "ports": (ApiPort(port=80),)} | spec
    meta = ObjectMeta(name="web", namespace="default", labels=labels or {})
    return Service(metadata=meta, spec=ServiceSpec(**values), status=status or ServiceStatus())


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(service(cluster_ip="None", cluster_ips=("None",)), id="headless"),
        pytest.param(service(type="ExternalName", cluster_ip="", cluster_ips=()), id="external name"),
        pytest.param(service({"service.kubernetes.io/service-proxy-name": "x"}), id="for another proxy"),
        pytest.param(service(cluster_ip="fd00::1", cluster_ips=("fd00::1",)), id="other family"),
    ],
)
def test_not_ours(made: Service) -> None:
    assert service_ports(made) == ()


def test_node_port_only_counts_by_type_and_balancer_by_mode() -> None:
    (port,) = service_ports(service(ports=(ApiPort(port=80, node_port=30080),)))
    assert (port.node_port, port.key) == (0, PortKey(KEY, "", "tcp"))
    ingress = (LoadBalancerIngress(ip="1.2.3.4"), LoadBalancerIngress(ip="1.2.3.5", ip_mode="Proxy"))
    status = ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress))
    (port,) = service_ports(service(type="LoadBalancer", status=status, ports=(ApiPort(port=80, node_port=30080),)))
    assert (port.node_port, port.load_balancer_ips) == (30080, ("1.2.3.4",))
    assert service_ports(service(session_affinity="ClientIP"))[0].affinity_seconds == 10800


def test_ranges_of_services_in_one_family_and_none_twice() -> None:
    cidrs = ["10.97.0.0/16", "fd00::/108", "10.96.0.0/16", "10.96.8.0/24", "10.99.0.1/32"]
    # The first two are neighbours: one range to the kernel.
    assert service_networks(cidrs) == ("10.96.0.0/15", "10.99.0.1")
    assert service_networks(cidrs, 6) == ("fd00::/108",)


def test_endpoints_by_port_and_condition() -> None:
    piece = EndpointSlice(
        metadata=ObjectMeta(name="web-1", namespace="default"),
        address_type="IPv4",
        ports=(EndpointPort(name="http", protocol="TCP", port=8080), EndpointPort(name="dns", protocol="UDP", port=53)),
        endpoints=(
            Endpoint(addresses=("10.1.0.2",), node_name="n1"),
            Endpoint(
                addresses=("10.1.0.1",), conditions=EndpointConditions(ready=False, serving=True, terminating=True)
            ),
        ),
    )
    first, second = endpoints_of([piece, piece], PortKey(KEY, "http", "tcp"), "n1")
    assert (first.ip, first.ready, first.is_draining, first.is_local) == ("10.1.0.1", False, True, False)
    assert (second.ip, second.port, second.ready, second.is_local) == ("10.1.0.2", 8080, True, True)
    assert endpoints_of([piece], PortKey(KEY, "other", "tcp"), "n1") == []


VIP, A, B = ("10.96.0.1", 53), ("10.1.0.1", 53), ("10.1.0.2", 53)


@pytest.mark.parametrize(
    ("backend", "allowed", "stale"),
    [
        pytest.param(A, {A}, False, id="still there"),
        pytest.param(A, {B}, True, id="endpoint gone"),
        pytest.param(A, set(), True, id="service gone"),
        pytest.param(VIP, {A}, True, id="sent before there were endpoints"),
        pytest.param(VIP, set(), False, id="nothing was or is there"),
    ],
)
def test_stale_udp(backend: tuple[str, int], allowed: set[tuple[str, int]], stale: bool) -> None:
    assert is_stale(Entry(VIP, backend, b""), {VIP: frozenset(allowed)}, {}) is stale


def test_modes_that_are_not_there_are_named() -> None:
    assert check_mode("") == "nftables"
    with pytest.raises(ConfigError, match=r'unknown proxy mode "userspace"; available: nftables, iptables, ipvs'):
        check_mode("userspace")
