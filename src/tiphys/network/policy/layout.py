"""The table of NetworkPolicy: fixed base chains, a chain a policy and direction, sets of addresses.

Only what concerns the pods of this node is there. A packet's way, in the forward hook (which the
bridge's frames between two pods of the node pass as well, by br_netfilter in this network
namespace; without it kube-proxy would not work either):

    egress    source address ──map──→ out-<combination> ─jump→ policy-out-<name> … accept
                                                        └→ drop
    ingress   destination    ──map──→ in-<combination>  ─jump→ policy-in-<name>  … accept
                                                        └→ drop

Where kube-proxy is in mode ipvs, what a Service sends to a pod leaves the node's output hook and never is forwarded,
with its own source address; it goes the same way from there.

A combination is the policies that select a pod; pods selected by the same ones share it. `accept`
ends a base chain, not the packet's way: egress goes first, then ingress. A pod that no policy
selects is in neither map and costs one look-up. Destinations are judged after a Service's
translation and sources before masquerading: rules see pods. What starts or ends on the node
itself (kubelet's probes, node-local agents) never passes the forward hook and so is always let
through, as documented. Answers pass by connection tracking; a pod always reaches itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from tiphys.machinery.meta import ObjectName
from tiphys.network.policy.model import Policy, PortRange, Range, Rule

TABLE: Final = "tiphys-policy"
NAME: Final = f"inet {TABLE}"
INGRESS: Final = "ingress"
EGRESS: Final = "egress"
_SHORT: Final = {INGRESS: "in", EGRESS: "out"}
_FAMILY: Final = {4: "ip", 6: "ip6"}
_TYPE: Final = {4: "ipv4_addr", 6: "ipv6_addr"}


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def base(versions: Iterable[int]) -> str:
    """The script that makes the table anew, with nothing in it but the base chains."""
    versions = tuple(versions)
    lines = [f"add table {NAME}", f"delete table {NAME}", f"table {NAME} {{"]
    for version in versions:
        lines.append(f"  map {INGRESS}{version} {{ type {_TYPE[version]} : verdict; }}")
        lines.append(f"  map {EGRESS}{version} {{ type {_TYPE[version]} : verdict; }}")
        lines.append(f"  set self{version} {{ type {_TYPE[version]} . {_TYPE[version]}; }}")
    for direction, field, priority in ((EGRESS, "saddr", "filter - 5"), (INGRESS, "daddr", "filter - 4")):
        lines += [
            f"  chain {direction}-forward {{",
            f"    type filter hook forward priority {priority}; policy accept;",
            "    ct state established,related accept",
            f"    jump {direction}",
            "  }",
            f"  chain {direction}-output {{",
            f"    type filter hook output priority {priority}; policy accept;",
            "    ct state established,related accept",
            f"    fib saddr type != local jump {direction}",
            "  }",
            f"  chain {direction} {{",
        ]
        if 6 in versions:
            # Neighbours are found by these; pods of one bridge would lose each other without.
            lines.append("    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept")
        for version in versions:
            family = _FAMILY[version]
            lines.append(f"    {family} saddr . {family} daddr @self{version} accept")
            lines.append(f"    {family} {field} vmap @{direction}{version}")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def set_declaration(name: str) -> str:
    """The command that makes a set; its name tells its kind: pods4-…, ports6-…."""
    version = int(name[4])
    ports = " . inet_service" if name.startswith("port") else ""
    return f"add set {NAME} {name} {{ type {_TYPE[version]}{ports}; }}\n"


def in_family(set_name: str, version: int) -> str:
    """A set of `model` in one family: pods-1234 → pods4-1234."""
    kind, _, digest = set_name.partition("-")
    return f"{kind}{version}-{digest}"


def policy_chain(name: ObjectName, direction: str) -> str:
    """The chain of a policy's rules in a direction."""
    return f"policy-{_SHORT[direction]}-{_digest(str(name))}"


def combination_chain(policies: Iterable[ObjectName], direction: str) -> str:
    """The chain of the pods that exactly these policies select in a direction."""
    return f"{_SHORT[direction]}-{_digest(' '.join(map(str, policies)))}"


def policy_rules(policy: Policy, direction: str, versions: Iterable[int]) -> tuple[str, ...]:
    """The rules of a policy's chain; none when it lets nothing pass."""
    rules = policy.ingress if direction == INGRESS else policy.egress
    field = "saddr" if direction == INGRESS else "daddr"
    versions = tuple(versions)
    lines = [line for rule in rules or () for line in _lines(rule, field, versions)]
    return tuple(dict.fromkeys(lines))


def _lines(rule: Rule, field: str, versions: tuple[int, ...]) -> Iterator[str]:
    numbered = [""] if rule.any_port else list(_ports(rule.ports))
    for version in versions:
        family = _FAMILY[version]
        # A name means another number in each pod: the set holds the destinations, whoever they are.
        named = [
            f"{family} daddr . {port.protocol} dport @{in_family(port.set_name, version)} " for port in rule.named_ports
        ]
        for peer in _peers(rule, f"{family} {field}", version):
            for port in (*numbered, *named):
                yield f"{peer}{port}accept"


def _peers(rule: Rule, match: str, version: int) -> Iterator[str]:
    if rule.any_peer:
        yield ""
        return
    for selection in rule.selections:
        yield f"{match} @{in_family(selection.set_name, version)} "
    texts = [_range(each) for each in rule.ranges if each.version == version]
    if texts:
        yield f"{match} {{ {', '.join(texts)} }} "


def _range(addresses: Range) -> str:
    make = ipaddress.IPv4Address if addresses.version == 4 else ipaddress.IPv6Address
    first, last = make(addresses.first), make(addresses.last)
    return str(first) if first == last else f"{first}-{last}"


def _ports(ports: Iterable[PortRange]) -> Iterator[str]:
    for protocol, group in groupby(ports, key=lambda port: port.protocol):
        found = list(group)
        if found[0].first == 0:
            yield f"meta l4proto {protocol} "
        else:
            texts = [str(port.first) if port.first == port.last else f"{port.first}-{port.last}" for port in found]
            yield f"{protocol} dport {{ {', '.join(texts)} }} "


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()
