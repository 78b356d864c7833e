"""What a back end is told and must do: carry packets between the pod CIDRs of the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

# What a node says of itself on its Node object, as Flannel's nodes do; of IPv6 beside IPv4.
TYPE_ANNOTATION: Final = "flannel.alpha.coreos.com/backend-type"
MANAGER_ANNOTATION: Final = "flannel.alpha.coreos.com/kube-subnet-manager"
DATA_ANNOTATIONS: Final = {
    4: "flannel.alpha.coreos.com/backend-data",
    6: "flannel.alpha.coreos.com/backend-v6-data",
}
ADDRESS_ANNOTATIONS: Final = {4: "flannel.alpha.coreos.com/public-ip", 6: "flannel.alpha.coreos.com/public-ipv6"}


def announcement(version: int, kind: str, data: str, ip: str) -> dict[str, str]:
    """The annotations of a node with this back end; `data` is JSON."""
    return {
        TYPE_ANNOTATION: kind,
        DATA_ANNOTATIONS[version]: data,
        ADDRESS_ANNOTATIONS[version]: ip,
        MANAGER_ANNOTATION: "true",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This node in one address family."""

    name: str
    ip: str  # its InternalIP
    cidr: str  # its pod CIDR


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another node, complete enough to send to."""

    name: str
    ip: str
    cidr: str
    mac: str = ""  # of its VTEP; empty when it has not announced one


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What follows from the back end: what to announce on the node, and the room left for pods' packets."""

    mtu: int
    annotations: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """One way between nodes for one address family. Blocking.

    All calls come from one thread in the node's network namespace.
    """

    def prepare(self, local: Local) -> Prepared:
        """Make devices. Called at start and when the node's addresses change. Raises OSError."""

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """Make routes and entries exactly those of `peers`; returns what failed, in words, peer by peer."""

    def close(self) -> None:
        """Release sockets. Routes and devices stay: pods go on talking while the agent is away."""

    def clean_up(self) -> None:
        """Remove everything the back end made."""
