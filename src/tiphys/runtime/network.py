"""What the runtime needs of a network: one pod's interfaces made, checked and taken away.

The runtime makes and pins the network namespace; whoever implements `NetworkSetup` (our CNI plugin in the same
process, or CNI plugins on disk: wired by `cmd`) fills it. Host-network pods never come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the node that leads to a port of the pod (`hostPort`)."""

    protocol: str  # "tcp", "udp" or "sctp"
    container_port: int
    host_port: int
    host_ip: str = ""  # every address of the node


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNetwork:
    """One pod as the network sees it."""

    sandbox_id: str
    netns_path: str
    name: str
    namespace: str
    uid: str
    port_mappings: tuple[PortMapping, ...] = ()
    # Bits per second, 0 is unlimited; from the annotations kubernetes.io/{in,e}gress-bandwidth.
    ingress_bandwidth: int = 0
    egress_bandwidth: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """Addresses of the pod, its first is `status.podIP`, and the names of its interfaces."""

    ips: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """Whether pods can be given a network now; the words go into the node's Ready condition."""

    ready: bool = True
    reason: str = ""
    message: str = ""


class NetworkSetup(Protocol):
    """Fills and empties the network namespaces of pods. Every failure is an exception whose text a user reads."""

    async def add(self, pod: PodNetwork) -> NetworkResult:
        """Connect the pod. A failure leaves nothing behind, or only what `delete` takes away."""

    async def delete(self, pod: PodNetwork) -> None:
        """Disconnect the pod and free its addresses. Idempotent; `netns_path` may be gone (or "")."""

    async def check(self, pod: PodNetwork) -> None:
        """Raise when the pod's network is not as `add` left it."""

    def status(self) -> NetworkStatus:
        """Whether `add` can work."""

    async def update_config(self, pod_cidr: str) -> None:
        """The kubelet has learnt the node's pod CIDR ("a,b" for dual stack)."""


class LoopbackOnly:
    """A network of which pods see only their own loopback interface; for tests and for pods that need no more."""

    async def add(self, pod: PodNetwork) -> NetworkResult:
        return NetworkResult()

    async def delete(self, pod: PodNetwork) -> None:
        return None

    async def check(self, pod: PodNetwork) -> None:
        return None

    def status(self) -> NetworkStatus:
        return NetworkStatus()

    async def update_config(self, pod_cidr: str) -> None:
        return None
