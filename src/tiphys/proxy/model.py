"""What the proxy knows, as plain values: one port of a Service, and one endpoint behind it.

They say what kube-proxy's rules need and nothing else, so that deciding (`topology`) and writing
rules (`nftables`) can be tested without the API.
https://kubernetes.io/docs/reference/networking/virtual-ips/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class ServiceKey(NamedTuple):
    """A Service: namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class PortKey(NamedTuple):
    """One port of a Service; `port` is the port's name, empty when the Service has a single one."""

    service: ServiceKey
    port: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.service}:{self.port}/{self.protocol}" if self.port else f"{self.service}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """One port of one Service in one address family. Only Services with a cluster IP are here."""

    key: PortKey
    cluster_ip: str
    port: int
    node_port: int = 0  # 0: none
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    load_balancer_source_ranges: tuple[str, ...] = ()  # CIDRs; empty: everybody
    internal_local: bool = False  # internalTrafficPolicy: Local
    external_local: bool = False  # externalTrafficPolicy: Local
    affinity_seconds: int = 0  # sessionAffinity: ClientIP with this timeout; 0: None
    health_check_node_port: int = 0

    @property
    def protocol(self) -> str:
        """`tcp`, `udp` or `sctp`."""
        return self.key.protocol

    @property
    def is_external(self) -> bool:
        """Whether it can be reached from outside the cluster at all."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address and port behind a service port, as an EndpointSlice tells it."""

    ip: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    is_local: bool = False  # on this node
    zones: frozenset[str] = frozenset()  # hints.forZones
    nodes: frozenset[str] = frozenset()  # hints.forNodes

    @property
    def is_draining(self) -> bool:
        """Terminating, but still answering."""
        return self.serving and self.terminating


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which endpoints serve which traffic of one service port (see `topology.choose`)."""

    cluster: tuple[Endpoint, ...] = ()  # for traffic policy Cluster
    local: tuple[Endpoint, ...] = ()  # for traffic policy Local
    any_anywhere: bool = False  # some node has an endpoint that answers


@dataclass(frozen=True, slots=True)
class Place:
    """Where this proxy runs: what topology hints are compared with."""

    node: str
    zone: str = ""
