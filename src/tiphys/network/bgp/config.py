"""A node's bird.conf of one address family. Pure. https://bird.network.cz/?get_doc&f=bird-6.html

protocol static own          this node's pod range, and the addresses of load balancers it answers for
protocol bgp node_…          the other nodes (all, or the reflectors), same autonomous system
protocol bgp router_…        routers beside the cluster
protocol kernel              what nodes and routers told, into the kernel; it stays there while BIRD is away
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from tiphys.network.backends.model import Local, Peer
from tiphys.network.bgp.settings import BgpSettings, Router

# Marks our routes among BIRD's in the kernel; also, routes of another back end are preferred while both are there.
METRIC: Final = 84
RESTART_TIME: Final = 120  # seconds others keep a node's routes while its BIRD is away (RFC 4724)


def bird_config(
    local: Local, peers: Iterable[Peer], settings: BgpSettings, balanced: Sequence[str] = (), port: int = 179
) -> str:
    """The configuration of `local`. `balanced`: addresses of load balancers to announce."""
    version = ipaddress.ip_address(local.ip).version
    channel = f"ipv{version}"
    fronts = [f"{each}/{32 if version == 4 else 128}" for each in sorted(balanced)]
    speaks = f"local {local.ip} port {port} as {settings.as_number}"
    kernel = f"import none; export where source = RTS_BGP; }}; metric {METRIC}; persist; graceful restart; scan time 5"
    timing = "connect retry time 2; connect delay time 1; error wait time 1, 5; hold time 15; keepalive time 5"
    graceful = f"graceful restart on; graceful restart time {RESTART_TIME}"
    lines = [
        "log stderr { warning, error, fatal, bug };",
        f"router id {_router_id(local.ip)};",
        "protocol device { scan time 5; }",
        f"protocol direct {{ {channel}; }}",
        # Preferred to the same range on the bridge, which appears with the first pod.
        f"protocol static own {{ {channel} {{ preference 250; }}; route {local.cidr} unreachable; }}",
        f"protocol static fronts {{ {channel}; {' '.join(f'route {each} unreachable;' for each in fronts)} }}",
        # Only what BGP brought goes into the kernel: ranges of our own are there by their interfaces.
        f"protocol kernel {{ {channel} {{ {kernel}; }}",
        f"template bgp any {{ {speaks}; strict bind yes; {timing}; {graceful}; }}",
    ]
    am_reflector = local.name in settings.route_reflectors
    for peer in peers:
        is_reflector = peer.name in settings.route_reflectors
        if not (settings.node_mesh or am_reflector or is_reflector):
            continue
        reflects = "rr client; " if am_reflector and not is_reflector else ""
        # A reflector passes on what it was told; the way leads to whoever told it first.
        lines.append(
            f"protocol bgp {_name('node', peer.name)} from any {{ neighbor {peer.ip} port {port} as "
            f"{settings.as_number}; {reflects}{channel} {{ import where net !~ [{local.cidr}+]; "
            f'export where proto = "own" || source = RTS_BGP; }}; }}'
        )
    lines += [
        _router_lines(router, channel, version)
        for router in settings.peers
        if ipaddress.ip_address(router.address).version == version and local.name in (router.nodes or [local.name])
    ]
    return "\n".join([*lines, ""])


def _router_lines(router: Router, channel: str, version: int) -> str:
    believed = [each for each in router.imports if ipaddress.ip_network(each).version == version]
    imports = f"where net ~ [{', '.join(f'{each}+' for each in believed)}]" if believed else "none"
    return (
        f"protocol bgp {_name('router', router.address)} from any {{ neighbor {router.address} as {router.as_number}; "
        f'{channel} {{ import {imports}; export where proto = "own" || proto = "fronts"; next hop self; }}; }}'
    )


def _name(kind: str, of: str) -> str:
    """A protocol's name: letters, digits and "_", and still another one for another peer."""
    digest = hashlib.blake2s(of.encode(), digest_size=3).hexdigest()
    return f"{kind}_{re.sub('[^a-z0-9]', '_', of.lower())[:40]}_{digest}"


def _router_id(ip: str) -> str:
    """An IPv4 address as it is; of an IPv6 one a number made of it."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return ip
    return str(
        ipaddress.IPv4Address(int.from_bytes(hashlib.blake2s(address.packed, digest_size=4).digest(), "big") | 1)
    )
