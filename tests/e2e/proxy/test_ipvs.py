"""What only mode ipvs has: schedulers, endpoints that drain, others' virtual servers. Needs a kernel with IPVS."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.e2e.netlab import ask, lab, path, sh
from tests.e2e.proxy.test_proxy_follows import POD_A, POD_B, VIP, Site
from tiphys.base.netns import call_in
from tiphys.network.policy import layout
from tiphys.proxy.config import IPVS, IpvsSettings
from tiphys.proxy.ipvs.kernel import Change, Ipvs, Manner, Server, is_available

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
OTHERS = Server("tcp", "10.9.9.9", 80)


@pytest.fixture
def site() -> Iterator[Site]:
    if not is_available():
        pytest.skip("this kernel has no IPVS")
    with lab() as made:
        here = Site(made, IPVS)
        try:
            yield here
        finally:
            here.stop()


def _connect(site: Site) -> socket.socket:
    def work() -> socket.socket:
        channel = socket.create_connection((VIP, 80), timeout=5)
        channel.settimeout(5)
        return channel

    return call_in(path(site.pods[0]), work)


def _servers(site: Site) -> dict[Server, Manner]:
    def work() -> dict[Server, Manner]:
        ipvs = Ipvs()
        found = ipvs.servers()
        ipvs.close()
        return found

    return call_in(path(site.node), work)


def _weights(site: Site) -> list[int]:
    """Those of the real servers of the only virtual one."""
    return sorted(int(line.split()[3]) for line in sh("cat /proc/net/ip_vs", site.node).splitlines()[4:])


@pytest.mark.parametrize("scheduler", ["wrr", "lc", "wlc", "sh", "dh", "sed", "nq"])
def test_another_scheduler_takes_over_without_a_gap(site: Site, scheduler: str) -> None:
    site.set("web", POD_A, POD_B)
    site.start()
    assert _servers(site)[Server("tcp", VIP, 80)] == Manner("rr")
    held = _connect(site)
    site.stop()
    site.ipvs = IpvsSettings(scheduler=scheduler, tcp_timeout=600, udp_timeout=100)
    site.start()
    assert _servers(site)[Server("tcp", VIP, 80)] == Manner(scheduler)
    held.sendall(b"?")
    assert held.recv(100).split()[0] in (b"a", b"b")
    assert ask(site.node, VIP, 80).split()[0] in ("a", "b")
    held.close()


def test_an_endpoint_that_goes_keeps_its_connections_and_gets_no_new_ones(site: Site) -> None:
    site.set("web", POD_B)
    site.start()
    held = _connect(site)
    site.set("web", POD_A)
    # Asking before would leave a connection behind, which the kernel remembers for two minutes.
    site.until(lambda: _weights(site) == [0, 1])
    assert {ask(site.node, VIP, 80).split()[0] for _ in range(4)} == {"a"}
    held.sendall(b"?")
    assert held.recv(100) == f"b {POD_A}".encode()
    assert _weights(site) == [0, 1]
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    held.close()  # by a reset, which the kernel remembers for ten seconds
    deadline = time.monotonic() + 60
    while _weights(site) != [1]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_virtual_servers_of_others_are_left_alone_where_they_are_excluded(site: Site) -> None:
    def add() -> None:
        ipvs = Ipvs()
        ipvs.apply([Change("new", OTHERS, Manner("rr"))])
        ipvs.close()

    call_in(path(site.node), add)
    site.ipvs = IpvsSettings(exclude_cidrs=("10.9.0.0/16",))
    site.set("web", POD_B)
    site.start()
    assert OTHERS in _servers(site)
    site.stop()
    site.ipvs = IpvsSettings(strict_arp=True)
    site.start()
    assert OTHERS not in _servers(site) and Server("tcp", VIP, 80) in _servers(site)
    assert sh("sysctl -n net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce", site.node).split() == ["1", "2"]


def test_policies_judge_what_a_service_sends(site: Site) -> None:
    """Such a packet is never forwarded, where policies look otherwise."""
    site.set("web", POD_B)
    site.start()
    assert ask(site.pods[0], VIP, 80) == f"b {POD_A}"
    script = layout.base((4,)) + f"add chain {layout.NAME} shut\nadd rule {layout.NAME} shut drop\n"
    for direction, address in ((layout.INGRESS, POD_B), (layout.EGRESS, POD_A)):
        sh(f"nft '{script} add element {layout.NAME} {direction}4 {{ {address} : goto shut }}'", site.node)
        assert ask(site.pods[0], VIP, 80, timeout=1.0) == "timeout"
        assert ask(site.node, VIP, 80).startswith("b ")  # the node itself is always let through
