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
_TABLE_V4: Final = f"""\
table ip {TABLE} {{
  map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ip-ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  set hairpin {{ type ipv4_addr . ipv4_addr; }}
  chain hostports {{
    meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport map @ip-ports
    meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . th dport map @ports
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat + 5; policy accept;
    fib daddr type local jump hostports
  }}
  chain output {{
    type nat hook output priority -95; policy accept;
    fib daddr type local jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr 127.0.0.0/8 oifname "{BRIDGE}" masquerade
    ct status dnat ip saddr . ip daddr @hairpin masquerade
  }}
}}
"""
_CONTAINERS: Final = {"ports": "map", "ip-ports": "map", "hairpin": "set"}

Elements = dict[tuple[str, str], str]


def elements_of(allocations: Iterable[Allocation]) -> Elements:
    """The elements for these pods: (map or set, key) → value. IPv4 only."""
    elements: Elements = {}
    for allocation in allocations:
        if not allocation.ports or ipaddress.ip_address(allocation.address).version != 4:
            continue
        elements[("hairpin", f"{allocation.address} . {allocation.address}")] = ""
        for port in allocation.ports:
            target = f"{allocation.address} . {port.container_port}"
            front = f"{port.protocol.lower()} . {port.host_port}"
            if port.host_ip and port.host_ip != "0.0.0.0":
                elements[("ip-ports", f"{port.host_ip} . {front}")] = target
            else:
                elements[("ports", front)] = target
    return elements


class HostPorts:
    """The table in the thread's network namespace; made when the first port is asked for."""

    def __init__(self) -> None:
        self._nft: Nft | None = None
        self._present: Elements = {}

    def sync(self, allocations: Iterable[Allocation]) -> None:
        """Make the elements those of these pods. Raises NftError."""
        wanted = elements_of(allocations)
        if self._nft is None:
            if not wanted and not _table_exists():
                return
            self._nft = Nft()
            self._nft.run(f"add table ip {TABLE}\ndelete table ip {TABLE}\n{_TABLE_V4}" + _script({}, wanted))
        elif wanted != self._present:
            try:
                self._nft.run(_script(self._present, wanted))
            except NftError:
                # Somebody changed the table: make it again, whole.
                self._nft.run(f"add table ip {TABLE}\ndelete table ip {TABLE}\n{_TABLE_V4}" + _script({}, wanted))
        self._present = wanted

    def close(self) -> None:
        if self._nft is not None:
            self._nft.close()
            self._nft = None


def _table_exists() -> bool:
    nft = Nft()
    try:
        return any(entry.get("table", {}).get("name") == TABLE for entry in nft.list("tables ip"))
    finally:
        nft.close()


def _script(have: Elements, want: Elements) -> str:
    lines = [
        f"delete element ip {TABLE} {name} {{ {key} }}\n"
        for (name, key), value in have.items()
        if want.get((name, key)) != value
    ]
    for (name, key), value in want.items():
        if have.get((name, key)) != value:
            lines.append(f"add element ip {TABLE} {name} {{ {key}{' : ' + value if value else ''} }}\n")
    return "".join(lines)
