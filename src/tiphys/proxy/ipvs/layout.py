"""The nftables table beside IPVS: what it lets in, what it masquerades, and who takes the short way.

IPVS takes a packet only when its address is the node's (`kube-ipvs0` has them all), on its way in or from the node
itself; it chooses the endpoint and translates the address. All else is here, before and after it:

    prerouting, output   choose      masquerade: a bit in the connection's mark
                                     short way: the packet's mark, which names a virtual server of its own
    input, output        filter      source ranges, ports without endpoints, what no Service has of its addresses
                         ↓ IPVS
    input                            an endpoint on the node's own network: the bit has done its duty
    postrouting                      masquerade

The short way: with externalTrafficPolicy Local a pod, or the node, that asks for an external address may be
sent to any endpoint, while clients from outside get those of this node.
https://kubernetes.io/docs/reference/networking/virtual-ips/#proxy-mode-ipvs
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

TABLE: Final = "kube-proxy-ipvs"
MASQUERADE: Final = 0x4000  # in the connection's mark
SHORT_BASE: Final = 0x01000000  # a packet's mark is this and the number of a virtual server
SHORT_BITS: Final = 20
SHORT_MASK: Final = 0xFFFFFFFF ^ ((1 << SHORT_BITS) - 1)

# name → nft's declaration, `A` stands for the family's address type; maps first.
MAPS: Final = {
    "short-ips": "type A . inet_proto . inet_service : mark;",
    "short-nodeports": "type inet_proto . inet_service : mark;",
}
SETS: Final = {
    "cluster-ips": "type A . inet_proto . inet_service;",
    "external-ips": "type A . inet_proto . inet_service;",  # policy Cluster: masqueraded
    "local-ips": "type A . inet_proto . inet_service;",  # policy Local
    "masquerade-nodeports": "type inet_proto . inet_service;",
    "nodeport-ips": "type A;",
    "service-ips": "type A;",  # what kube-ipvs0 has
    "service-cidrs": "type A; flags interval;",
    "hairpin-connections": "type A . A;",
    "reject-ips": "type A . inet_proto . inet_service;",
    "reject-nodeports": "type inet_proto . inet_service;",
    "drop-ips": "type A . inet_proto . inet_service;",
    "drop-nodeports": "type inet_proto . inet_service;",
    "firewall-ips": "type A . inet_proto . inet_service;",
    "firewall-allow": "type A . inet_proto . inet_service . A; flags interval;",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The fixed part of the table for one address family ("ip" or "ip6")."""

    family: str = "ip"
    cluster_cidr: str = ""  # sources inside it are pods; empty: they cannot be told from others
    masquerade_all: bool = False

    @property
    def name(self) -> str:
        return f"{self.family} {TABLE}"

    @property
    def fingerprint(self) -> str:
        """Names the version of the fixed part: a table with another one is replaced whole."""
        return "layout-" + hashlib.sha256(self._body().encode()).hexdigest()[:12]

    def create(self) -> str:
        """A script that replaces the table, if any, by an empty one; to be followed by the elements."""
        head = f"add table {self.name}\ndelete table {self.name}\ntable {self.name} {{\n"
        return f"{head}{self._body()}  chain {self.fingerprint} {{\n  }}\n}}\n"

    def _body(self) -> str:
        address = "ipv4_addr" if self.family == "ip" else "ipv6_addr"
        declared = "".join(f"  map {name} {{ {text.replace('A', address)} }}\n" for name, text in MAPS.items())
        declared += "".join(f"  set {name} {{ {text.replace('A', address)} }}\n" for name, text in SETS.items())
        return declared + self._choosing() + self._filtering()

    def _choosing(self) -> str:
        family = self.family
        at, port = f"{family} daddr . meta l4proto . th dport", "meta l4proto . th dport"
        at_node = f"{family} daddr @nodeport-ips"
        mark = f"ct mark set ct mark | {MASQUERADE:#x}"
        from_pods, others = "", ""
        if self.cluster_cidr:
            inside = f"{family} saddr {self.cluster_cidr}"
            from_pods = (
                f"    {inside} meta mark set {at} map @short-ips accept\n"
                f"    {inside} {at_node} meta mark set {port} map @short-nodeports accept\n"
            )
            others = f"    {family} saddr != {self.cluster_cidr} {at} @cluster-ips {mark}\n"
        if self.masquerade_all:
            others = f"    {at} @cluster-ips {mark}\n"
        # The node's own packets come from the very address they ask for, which kube-ipvs0 has: none could answer.
        return f"""\
  chain services {{
{others}    {at} @external-ips {mark}
    {at_node} {port} @masquerade-nodeports {mark}
  }}
  chain choose-prerouting {{
    type filter hook prerouting priority dstnat - 10; policy accept;
    ct state != new accept
{from_pods}    jump services
  }}
  chain choose-output {{
    type filter hook output priority -120; policy accept;
    ct state != new accept
    meta mark set {at} map @short-ips {mark} accept
    {at_node} meta mark set {port} map @short-nodeports {mark} accept
    {at} @cluster-ips {mark}
    jump services
  }}
  chain after-input {{
    type filter hook input priority 110; policy accept;
    ct state new ct mark & {MASQUERADE:#x} != 0 ct mark set ct mark ^ {MASQUERADE:#x}
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct mark & {MASQUERADE:#x} != 0 ct mark set ct mark ^ {MASQUERADE:#x} masquerade fully-random
    {family} saddr . {family} daddr @hairpin-connections masquerade fully-random
  }}
"""

    def _filtering(self) -> str:
        family = self.family
        at, port = f"{family} daddr . meta l4proto . th dport", "meta l4proto . th dport"
        at_node = f"{family} daddr @nodeport-ips"
        served = " ".join(f"{at} != @{name}" for name in ("cluster-ips", "external-ips", "local-ips"))
        return f"""\
  chain filter {{
    {at} @firewall-ips {at} . {family} saddr != @firewall-allow drop
    meta mark & {SHORT_MASK:#010x} == {SHORT_BASE:#010x} return
    {at} @drop-ips drop
    {at} @reject-ips reject
    {at_node} {port} @drop-nodeports drop
    {at_node} {port} @reject-nodeports reject
    {family} daddr @service-ips {served} reject
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump filter
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new {family} daddr @service-cidrs drop
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump filter
    ct state new {family} daddr @service-cidrs {family} daddr != @service-ips drop
  }}
"""
