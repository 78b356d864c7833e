"""What a back end is told and must do: carry packets between the pod CIDRs of the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This node."""

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
    """One way between nodes. Blocking; all calls from one thread in the node's network namespace."""

    def prepare(self, local: Local) -> Prepared:
        """Make devices. Called at start and when the node's addresses change. Raises OSError."""

    def sync(self, peers: Sequence[Peer]) -> list[str]:
        """Make routes and entries exactly those of `peers`; returns what failed, in words, peer by peer."""

    def close(self) -> None:
        """Release sockets. Routes and devices stay: pods go on talking while the agent is away."""

    def clean_up(self) -> None:
        """Remove everything the back end made."""
