"""What a NetworkPolicy says and what of a pod it looks at, as plain values.

A policy becomes rules; a rule lets a packet pass when one of its peers and one of its ports
match. Who the peers are is a `Selection`, which names pods without listing them, so that a pod
that comes or goes changes no rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tiphys.machinery.meta import ObjectName
from tiphys.machinery.selectors import LabelSelector


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A containerPort with a name; `protocol` is tcp, udp or sctp."""

    name: str
    protocol: str
    # The nftables set of all pods' addresses and numbers of this port, without its family.
    set_name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "set_name", f"port-{_digest(f'{self.protocol} {self.name}')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A pod that has addresses of its own. Finished pods and those on the node's network are not here."""

    name: ObjectName
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    ports: tuple[tuple[NamedPort, int], ...] = ()
    is_local: bool = False  # on this node


@dataclass(frozen=True, slots=True)
class Selection:
    """Pods by their labels, in one namespace or (`namespaces` given) in those whose labels match."""

    pods: LabelSelector
    namespace: str = ""
    namespaces: LabelSelector | None = None
    # The nftables set of the pods' addresses, without its family.
    set_name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        space = self.namespace if self.namespaces is None else f"[{self.namespaces}]"
        object.__setattr__(self, "set_name", f"pods-{_digest(f'{space} {self.pods}')}")

    def covers(self, namespace: str, labels: Mapping[str, str]) -> bool:
        """Whether pods of a namespace with these labels can be meant."""
        return namespace == self.namespace if self.namespaces is None else self.namespaces.matches(labels)


class Range(NamedTuple):
    """Addresses of one IP version, first and last as numbers."""

    version: int
    first: int
    last: int


class PortRange(NamedTuple):
    """Ports of a protocol; `first` 0: all of them."""

    protocol: str
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One ingress or egress rule. Peers are selections and ranges together; `any_peer` and `any_port`: no limit."""

    selections: tuple[Selection, ...] = ()
    ranges: tuple[Range, ...] = ()
    any_peer: bool = False
    ports: tuple[PortRange, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    any_port: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A NetworkPolicy; a direction that is None is not its business, an empty one lets nothing pass."""

    name: ObjectName
    subject: Selection
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()
