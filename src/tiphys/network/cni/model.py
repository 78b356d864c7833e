"""What is asked of a pod network and what it answers, as plain values.

`Pod` and `Mapping` are the least a caller's own types must have; ours satisfy them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class NetworkError(Exception):
    """A pod could not be connected; the text is for the pod's event."""


class Mapping(Protocol):
    """A port of the node that leads to a port of the pod."""

    @property
    def protocol(self) -> str:
        """tcp, udp or sctp."""

    @property
    def container_port(self) -> int: ...

    @property
    def host_port(self) -> int: ...

    @property
    def host_ip(self) -> str:
        """Empty: every address of the node."""


class Pod(Protocol):
    """One pod as the network sees it."""

    @property
    def sandbox_id(self) -> str: ...

    @property
    def netns_path(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def namespace(self) -> str: ...

    @property
    def uid(self) -> str: ...

    @property
    def port_mappings(self) -> Sequence[Mapping]: ...

    @property
    def ingress_bandwidth(self) -> int:
        """Bits per second; 0: unlimited."""

    @property
    def egress_bandwidth(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PortMapping:
    """See `Mapping`."""

    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNetwork:
    """See `Pod`."""

    sandbox_id: str
    netns_path: str
    name: str = ""
    namespace: str = ""
    uid: str = ""
    port_mappings: tuple[PortMapping, ...] = ()
    ingress_bandwidth: int = 0
    egress_bandwidth: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInterface:
    """How a pod was connected; the first of `ips` (no prefix length) is its `status.podIP`."""

    ips: tuple[str, ...]
    mac: str = ""
    gateway: str = ""
    interface: str = "eth0"
    host_interface: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether pods can be connected now; the words go into the node's Ready condition."""

    ready: bool = True
    reason: str = ""
    message: str = ""
