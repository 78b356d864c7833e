"""hostPort: ports of the node that lead to a pod, as elements of two nftables maps.

As the portmap plugin: the node's own addresses, from anywhere, its loopback included; a pod that
reaches itself this way, and loopback clients, are masqueraded. Rules are fixed; pods are
elements. https://www.cni.dev/plugins/current/meta/portmap/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from tiphys.base.nft import Nft, NftError
from tiphys.network.cni.bridge import BRIDGE
from tiphys.network.cni.ipam import Allocation

TABLE: Final = "tiphys-hostport"
_BODY: Final = f"""\
table {{family}} {TABLE} {{{{
  map ports {{{{ type inet_proto . inet_service : {{address}} . inet_service; }}}}
  map ip-ports {{{{ type {{address}} . inet_proto . inet_service : {{address}} . inet_service; }}}}
  set hairpin {{{{ type {{address}} . {{address}}; }}}}
  chain hostports {{{{
    meta l4proto {{{{ tcp, udp, sctp }}}} dnat {{family}} to {{family}} daddr . meta l4proto . th dport map @ip-ports
    meta l4proto {{{{ tcp, udp, sctp }}}} dnat {{family}} to meta l4proto . th dport map @ports
  }}}}
  chain prerouting {{{{
    type nat hook prerouting priority dstnat + 5; policy accept;
    fib daddr type local jump hostports
  }}}}
  chain output {{{{
    type nat hook output priority -95; policy accept;
    fib daddr type local jump hostports
  }}}}
  chain postrouting {{{{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat {{family}} saddr {{loopback}} oifname "{BRIDGE}" masquerade
    ct status dnat {{family}} saddr . {{family}} daddr @hairpin masquerade
  }}}}
}}}}
"""
# By nftables' family; a kernel never routes ::1 away from the loopback, so over IPv6 that rule meets nothing.
_TABLES: Final = {
    "ip": _BODY.format(family="ip", address="ipv4_addr", loopback="127.0.0.0/8"),
    "ip6": _BODY.format(family="ip6", address="ipv6_addr", loopback="::1"),
}

Elements = dict[tuple[str, str], str]


def elements_of(allocations: Iterable[Allocation], version: int = 4) -> Elements:
    """The elements for these pods in one family: (map or set, key) → value."""
    elements: Elements = {}
    for allocation in allocations:
        if not allocation.ports or ipaddress.ip_address(allocation.address).version != version:
            continue
        elements[("hairpin", f"{allocation.address} . {allocation.address}")] = ""
        for port in allocation.ports:
            target = f"{allocation.address} . {port.container_port}"
            front = f"{port.protocol.lower()} . {port.host_port}"
            if port.host_ip in ("", "0.0.0.0", "::"):
                elements[("ports", front)] = target
            elif ipaddress.ip_address(port.host_ip).version == version:
                elements[("ip-ports", f"{port.host_ip} . {front}")] = target
    return elements


class HostPorts:
    """The tables in the thread's network namespace; each is made when the first port of its family is asked for."""

    def __init__(self) -> None:
        self._nft: Nft | None = None
        self._present: dict[str, Elements] = {}

    def sync(self, allocations: Iterable[Allocation]) -> None:
        """Make the elements those of these pods. Raises NftError."""
        pods = list(allocations)
        for family, version in (("ip", 4), ("ip6", 6)):
            self._sync(family, elements_of(pods, version))

    def _sync(self, family: str, wanted: Elements) -> None:
        present = self._present.get(family)
        if present is None:
            if not wanted and not _table_exists(family):
                return
            self._make(family, wanted)
        elif wanted != present:
            assert self._nft is not None
            try:
                self._nft.run(_script(family, present, wanted))
            except NftError:
                self._make(family, wanted)  # somebody changed the table
        self._present[family] = wanted

    def _make(self, family: str, wanted: Elements) -> None:
        self._nft = self._nft or Nft()
        name = f"{family} {TABLE}"
        self._nft.run(f"add table {name}\ndelete table {name}\n{_TABLES[family]}" + _script(family, {}, wanted))

    def close(self) -> None:
        if self._nft is not None:
            self._nft.close()
            self._nft = None


def _table_exists(family: str) -> bool:
    nft = Nft()
    try:
        return any(entry.get("table", {}).get("name") == TABLE for entry in nft.list(f"tables {family}"))
    finally:
        nft.close()


def _script(family: str, have: Elements, want: Elements) -> str:
    lines = [
        f"delete element {family} {TABLE} {name} {{ {key} }}\n"
        for (name, key), value in have.items()
        if want.get((name, key)) != value
    ]
    for (name, key), value in want.items():
        if have.get((name, key)) != value:
            lines.append(f"add element {family} {TABLE} {name} {{ {key}{' : ' + value if value else ''} }}\n")
    return "".join(lines)
