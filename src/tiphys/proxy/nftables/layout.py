"""The rules of the nftables mode: fixed text; everything about Services is elements of maps.

No rule, chain or verdict names a Service, so the kernel never re-validates or rebuilds anything
when one changes: it inserts or removes hash elements, and the cost does not depend on how many
Services there are. A new connection costs two look-ups and one random number:

    service-ips     ip . proto . port  ─┐
    service-nodeports    proto . port  ─┴→ handle (put into the connection's mark)

    handle  31        20 19            0
           ┌───────────┬───────────────┐
           │  class    │     pool      │
           └───────────┴───────────────┘
    classes    class → goto lb-<mode>-<protocol>-<count>-<affinity>   a few chains, shared by all
    endpoints-<protocol>  pool . random(count) → ip . port            then destination NAT

Modes: `internal` (cluster IPs), `external` (policy Cluster from outside: always masqueraded),
`preserve` (policy Local: source address kept), `short` (traffic from inside the cluster to an
external address with policy Local, from the `internal-*` maps, which are asked first).

Session affinity: `affinity` remembers pool . client → ip . port, written in postrouting (and
input) once the connection's new destination is known.

Traffic for what has no endpoint is answered in the filter chains: `reject-*`, `drop-*`, and what
still carries a cluster IP after NAT (`cluster-ips`) is rejected; an address of the services' ranges that
no Service has (`service-cidrs`) must not lead out of the node, so what is sent there is dropped.
The table has the name kube-proxy gives it, so that tools that look for it find it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

TABLE: Final = "kube-proxy"
POOL_BITS: Final = 20
POOL_MASK: Final = (1 << POOL_BITS) - 1
CLASS_MASK: Final = 0xFFFFFFFF ^ POOL_MASK
MAX_CLASS: Final = (1 << (32 - POOL_BITS)) - 1
MASQUERADE_MARK: Final = 0x4000  # --iptables-masquerade-bit 14, as kube-proxy's default

# name → nft's declaration; maps first. `A` stands for the family's address type.
MAPS: Final[dict[str, str]] = {
    "service-ips": "type A . inet_proto . inet_service : mark;",
    "service-nodeports": "type inet_proto . inet_service : mark;",
    "internal-ips": "type A . inet_proto . inet_service : mark;",
    "internal-nodeports": "type inet_proto . inet_service : mark;",
    # One for each protocol: libnftables takes part of the type from a header field, and refuses
    # to mix `th` with a rule that matches a protocol, as translating ports demands.
    "endpoints-tcp": "typeof ct mark . numgen random mod 2 : F daddr . tcp dport;",
    "endpoints-udp": "typeof ct mark . numgen random mod 2 : F daddr . udp dport;",
    "endpoints-sctp": "typeof ct mark . numgen random mod 2 : F daddr . sctp dport;",
    "classes": "type mark : verdict;",
    "affinity-classes": "type mark : verdict;",
}
CLASS_MAPS: Final = ("classes", "affinity-classes")  # filled together with the chains they lead to
# Filled by packets, not by us: pool and client → endpoint. libnftables gives such a key and such a value 16 bytes each
# and aborts, or lets them run into each other, where there are more: so of IPv6 the port has a map of its own, and a
# client is known by a hash of its address. Two with one hash, one pair in 2³², merely share an endpoint.
AFFINITY_MAP: Final = "affinity"
AFFINITY_PORTS_MAP: Final = "affinity-ports"
_AFFINITY_FLAGS: Final = "size 65535; flags dynamic,timeout; timeout 3h;"
_CLIENT: Final = "jhash ip6 saddr mod 4294967295 seed 0x1"
AFFINITY_MAPS: Final[dict[str, dict[str, str]]] = {
    "ip": {AFFINITY_MAP: f"type mark . A : A . inet_service; {_AFFINITY_FLAGS}"},
    "ip6": {
        # A number is what `numgen` gives too; with `jhash` here, listing the map would crash.
        AFFINITY_MAP: f"typeof ct mark . numgen random mod 2 : ip6 daddr; {_AFFINITY_FLAGS}",
        AFFINITY_PORTS_MAP: f"typeof ct mark . numgen random mod 2 : tcp dport; {_AFFINITY_FLAGS}",
    },
}
SETS: Final[dict[str, str]] = {
    "cluster-ips": "type A;",
    "service-cidrs": "type A; flags interval;",
    "nodeport-ips": "type A;",
    "hairpin-connections": "type A . A;",
    "reject-ips": "type A . inet_proto . inet_service;",
    "reject-nodeports": "type inet_proto . inet_service;",
    "drop-ips": "type A . inet_proto . inet_service;",
    "drop-nodeports": "type inet_proto . inet_service;",
    "firewall-ips": "type A . inet_proto . inet_service;",
    "firewall-allow": "type A . inet_proto . inet_service . A; flags interval;",
}


class Mode(Enum):
    """How the source of a connection is treated; see the module's text."""

    INTERNAL = "internal"
    EXTERNAL = "external"
    PRESERVE = "preserve"
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """What all connections sent to one `lb-` chain have in common."""

    mode: Mode
    protocol: str  # tcp, udp, sctp
    count: int  # endpoints to choose from, at least 1
    affinity_seconds: int = 0

    @property
    def chain(self) -> str:
        return f"lb-{self.mode.value}-{self.protocol}-{self.count}-{self.affinity_seconds}"

    @classmethod
    def of_chain(cls, chain: str) -> TrafficClass | None:
        """The class a chain was made for; None for any other chain."""
        parts = chain.split("-")
        if len(parts) != 5 or parts[0] != "lb":
            return None
        return cls(Mode(parts[1]), parts[2], int(parts[3]), int(parts[4]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The fixed part of the table for one address family ("ip" or "ip6")."""

    family: str = "ip"
    # Sources inside it are pods of this cluster; empty: pods cannot be told from others.
    cluster_cidr: str = ""
    masquerade_all: bool = False

    @property
    def address_type(self) -> str:
        return "ipv4_addr" if self.family == "ip" else "ipv6_addr"

    @property
    def fingerprint(self) -> str:
        """Names the version of the fixed part: a table with another one is replaced whole."""
        return "layout-" + hashlib.sha256(self._body().encode()).hexdigest()[:12]

    def create(self) -> str:
        """A script that replaces the table, if any, by an empty one; to be followed by the elements."""
        name = f"{self.family} {TABLE}"
        return (
            f"add table {name}\ndelete table {name}\ntable {name} {{\n{self._body()}"
            f"  chain {self.fingerprint} {{\n  }}\n}}\n"
        )

    def class_script(self, traffic: TrafficClass, number: int) -> str:
        """Commands that add the chain of a class and its way in. The chain must not exist yet."""
        name, family = f"{self.family} {TABLE}", self.family
        handle = number << POOL_BITS
        nat_to = f"meta l4proto {traffic.protocol} dnat {family} to"
        nat = f"{nat_to} ct mark & {POOL_MASK:#010x}"
        lines = [f"add chain {name} {traffic.chain}"]
        mark = f"meta mark set meta mark | {MASQUERADE_MARK:#x}"
        if traffic.mode is Mode.EXTERNAL or (traffic.mode is Mode.INTERNAL and self.masquerade_all):
            lines.append(f"add rule {name} {traffic.chain} {mark}")
        elif traffic.mode is Mode.INTERNAL and self.cluster_cidr:
            lines.append(f"add rule {name} {traffic.chain} {family} saddr != {self.cluster_cidr} {mark}")
        elif traffic.mode is Mode.SHORT:
            lines.append(f"add rule {name} {traffic.chain} fib saddr type local {mark}")
        if traffic.affinity_seconds:
            remember = f"affinity-{traffic.affinity_seconds}"
            known, new = self._affinity(traffic.affinity_seconds)
            lines.append(f"add rule {name} {traffic.chain} {nat_to} {known}")
            lines.append(f"add chain {name} {remember}")
            lines.append(f"flush chain {name} {remember}")
            lines.append(f"add rule {name} {remember} {new}")
            lines.append(f"add element {name} affinity-classes {{ {handle} : jump {remember} }}")
        endpoints = f"numgen random mod {traffic.count} map @endpoints-{traffic.protocol}"
        lines.append(f"add rule {name} {traffic.chain} {nat} . {endpoints}")
        lines.append(f"add element {name} classes {{ {handle} : goto {traffic.chain} }}")
        return "\n".join(lines) + "\n"

    def _affinity(self, seconds: int) -> tuple[str, str]:
        """Where a client was sent before, and the statement that remembers where it is sent."""
        key = f"ct mark & {POOL_MASK:#010x} . {'ip saddr' if self.family == 'ip' else _CLIENT}"
        memory = f"{{ {key} timeout {seconds}s"
        if self.family == "ip":
            return f"{key} map @{AFFINITY_MAP}", f"update @{AFFINITY_MAP} {memory} : ip daddr . th dport }}"
        return (
            f"{key} map @{AFFINITY_MAP} : {key} map @{AFFINITY_PORTS_MAP}",
            f"update @{AFFINITY_MAP} {memory} : ip6 daddr }} update @{AFFINITY_PORTS_MAP} {memory} : th dport }}",
        )

    def drop_class_script(self, traffic: TrafficClass, number: int) -> str:
        """Commands that remove what `class_script` made, except the shared chain that remembers clients."""
        name, handle = f"{self.family} {TABLE}", number << POOL_BITS
        lines = [f"delete element {name} classes {{ {handle} }}"]
        if traffic.affinity_seconds:
            lines.append(f"delete element {name} affinity-classes {{ {handle} }}")
        lines.append(f"delete chain {name} {traffic.chain}")
        return "\n".join(lines) + "\n"

    def drop_remember_script(self, seconds: int) -> str:
        """Commands that remove the chain that remembers clients for so long; after the classes that share it."""
        return f"delete chain {self.family} {TABLE} affinity-{seconds}\n"

    def _body(self) -> str:
        declared = "".join(f"  map {name} {{ {self._typed(text)} }}\n" for name, text in MAPS.items())
        affinity = AFFINITY_MAPS[self.family]
        declared += "".join(f"  map {name} {{ {self._typed(text)} }}\n" for name, text in affinity.items())
        declared += "".join(f"  set {name} {{ {self._typed(text)} }}\n" for name, text in SETS.items())
        return declared + self._chains()

    def _typed(self, text: str) -> str:
        words = {"A": self.address_type, "F": self.family}
        return re.sub(r"\b[AF]\b", lambda found: words[found[0]], text)

    def _chains(self) -> str:
        family = self.family
        tuple_ip = f"{family} daddr . meta l4proto . th dport"
        tuple_port = "meta l4proto . th dport"
        at_node = f"{family} daddr @nodeport-ips"
        branch = f"ct mark & {CLASS_MASK:#010x} vmap @classes"
        from_pods = f"    {family} saddr {self.cluster_cidr} jump internal\n" if self.cluster_cidr else ""
        new = "ct state new jump"
        # Ports that a cluster IP does not have, and addresses that nobody has.
        unserved = "\n    ".join(
            f"ct state new {family} daddr @{name} {verdict}"
            for name, verdict in (("cluster-ips", "reject"), ("service-cidrs", "drop"))
        )
        return f"""\
  chain internal {{
    ct mark set {tuple_ip} map @internal-ips {branch}
    {at_node} ct mark set {tuple_port} map @internal-nodeports {branch}
  }}
  chain services {{
    ct mark set {tuple_ip} map @service-ips {branch}
    {at_node} ct mark set {tuple_port} map @service-nodeports {branch}
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{from_pods}    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump internal
    jump services
  }}
  chain nat-input {{
    type nat hook input priority 100; policy accept;
    ct status dnat ct mark & {CLASS_MASK:#010x} vmap @affinity-classes
    ct status dnat ct mark set 0
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ct mark & {CLASS_MASK:#010x} vmap @affinity-classes
    ct status dnat ct mark set 0
    meta mark & {MASQUERADE_MARK:#x} != 0 meta mark set meta mark ^ {MASQUERADE_MARK:#x} masquerade fully-random
    ct status dnat {family} saddr . {family} daddr @hairpin-connections masquerade fully-random
  }}
  chain firewall {{
    {tuple_ip} @firewall-ips {tuple_ip} . {family} saddr != @firewall-allow drop
  }}
  chain no-endpoints {{
    {tuple_ip} @drop-ips drop
    {tuple_ip} @reject-ips reject
    {at_node} {tuple_port} @drop-nodeports drop
    {at_node} {tuple_port} @reject-nodeports reject
  }}
  chain filter-prerouting {{
    type filter hook prerouting priority dstnat - 10; policy accept;
    {new} firewall
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    {new} no-endpoints
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    {new} no-endpoints
    {unserved}
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    {new} firewall
  }}
  chain filter-output-post-dnat {{
    type filter hook output priority -90; policy accept;
    {new} no-endpoints
    {unserved}
  }}
"""
