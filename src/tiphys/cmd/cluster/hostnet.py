"""What a cluster needs of the machine's own network: a bridge, forwarding, and a way out for its nodes.

    host ── bridge tph-NAME 172.30.K.1/24 ──┬── veth ── eth0 172.30.K.2  in NODE 1's namespace
                                            └── veth ── eth0 172.30.K.3  in NODE 2's namespace

The bridge joins the nodes as a switch joins machines. Beside it there are: IPv4 forwarding (put
back by `down` where we switched it on), and one nftables table that masquerades what the nodes
send out of the machine. A cluster with IPv6 has a /64 on the bridge too; forwarding of IPv6 stays
as it is, since a machine that forwards no longer listens to its own router (RFC 4861). `remove`
takes all of it away. There is no route to pods: two clusters may have the same pod addresses; the
API server reaches them from inside a node.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute, NetlinkError

from tiphys.base.nft import Nft
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import NODES_NETWORK, ClusterSpec
from tiphys.cmd.errors import CommandError

FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")


def link_name(prefix: str, *parts: str) -> str:
    """A link name of at most 15 characters that is the same every time."""
    text = "-".join(parts)
    short = f"{prefix}-{text}"
    if len(short) <= 15:
        return short
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[: 15 - len(prefix) - 1]}"


def bridge_name(cluster: str) -> str:
    """The bridge of a cluster."""
    return link_name("tph", cluster)


def table_name(cluster: str) -> str:
    """The nftables table of a cluster on the machine itself."""
    return f"tiphys-{cluster}"


def link_index(ip: IPRoute, name: str) -> int | None:
    """Index of a link, None when there is none of that name."""
    found = ip.link_lookup(ifname=name)
    return int(found[0]) if found else None


def take_subnet(spec: ClusterSpec, layout: Layout) -> ClusterSpec:
    """The spec with a network nobody has, and its bridge; of two that start at once, the second sees the first's."""
    lock = os.open(layout.run.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        spec = replace(spec, subnet=free_subnet())
        ensure(spec, layout)
    finally:
        os.close(lock)
    return spec


def free_subnet() -> str:
    """A /24 of 172.30.0.0/16 that no route of this machine uses; raises CommandError when there is none left."""
    with IPRoute() as ip:
        used = []
        for route in ip.get_routes(family=2):
            destination = route.get_attr("RTA_DST")
            if destination:
                used.append(ipaddress.ip_network(f"{destination}/{route['dst_len']}", strict=False))
    for candidate in NODES_NETWORK.subnets(new_prefix=24):
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate)
    raise CommandError(f"no free network for the nodes: every part of {NODES_NETWORK} has a route already")


def ensure(spec: ClusterSpec, layout: Layout) -> None:
    """Make the bridge, forwarding and masquerading; harmless when they are there."""
    name = bridge_name(spec.name)
    versions = {4, *spec.families}
    with IPRoute() as ip:
        index = link_index(ip, name)
        if index is None:
            ip.link("add", ifname=name, kind="bridge")
            index = link_index(ip, name)
        for version in versions:
            add_address(ip, index, spec.bridge_address(version), spec.subnet_of(version))
        ip.link("set", index=index, state="up")
    if FORWARDING.read_text().strip() != "1":
        FORWARDING.write_text("1")
        (layout.run / "forwarding-was-off").touch()
    table = table_name(spec.name)
    with closing(Nft()) as nft:
        for version in versions:
            family = "ip" if version == 4 else "ip6"
            nft.run(
                f"table {family} {table}\ndelete table {family} {table}\n"
                f"table {family} {table} {{\n"
                "  chain postrouting {\n"
                "    type nat hook postrouting priority srcnat; policy accept;\n"
                f'    {family} saddr {spec.subnet_of(version)} oifname != "{name}" masquerade\n'
                "  }\n"
                "}\n"
            )


def remove(cluster: str, layout: Layout) -> None:
    """Take everything away that `ensure` made; harmless when it is gone."""
    with IPRoute() as ip:
        index = link_index(ip, bridge_name(cluster))
        if index is not None:
            ip.link("del", index=index)  # its routes go with it
    name = table_name(cluster)
    with closing(Nft()) as nft:
        for family in ("ip", "ip6"):
            nft.run(f"table {family} {name}\ndelete table {family} {name}\n")
    marker = layout.run / "forwarding-was-off"
    if marker.exists():
        others = [path for path in layout.run.parent.iterdir() if path.is_dir() and path != layout.run]
        if others:
            # Another cluster needs forwarding now; whoever goes last puts it back.
            (others[0] / marker.name).touch()
        else:
            FORWARDING.write_text("0")
        marker.unlink()


def add_address(ip: IPRoute, index: int | None, address: str, network: str) -> None:
    """An address of a network on a link, usable at once; one that is there is kept."""
    found = ipaddress.ip_network(network)
    # Nobody else has an address of ours: no need to wait until the link has asked (IFA_F_NODAD).
    words = {"flags": 0x02} if found.version == 6 else {}
    with existing_is_fine():
        ip.addr("add", index=index, address=address, prefixlen=found.prefixlen, **words)


@contextmanager
def existing_is_fine() -> Iterator[None]:
    """Ignore that what is to be added is there already."""
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
