"""A machine that leaves its cluster keeps nothing of any proxy mode, nor of any back end; what others have stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.netlab import call_in, lab, path, sh
from tests.e2e.proxy.test_proxy_follows import POD_B, VIP, Site, site_in
from tiphys.network.agent import BACKENDS
from tiphys.network.backends.model import Local, Peer
from tiphys.network.bgp.config import METRIC
from tiphys.proxy.config import IPTABLES, IPVS, MODES

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BALANCER = "203.0.113.7"
SERVERS = "/proc/net/ip_vs"
THEIRS = (
    "iptables -t filter -A INPUT -s 198.51.100.1 -j DROP",
    "iptables -t nat -N THEIRS",
    "iptables -t nat -A PREROUTING -d 198.51.100.2 -j THEIRS",
    "ip6tables -t filter -P FORWARD DROP",
)


def _leave(node: str) -> None:
    """`tiphys agent --reset` on the node, of an agent whose files are gone already."""
    command = [sys.executable, "-m", "tiphys.cmd.main", "agent", "--reset", "--name", node]
    done = call_in(
        path(node), lambda: subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _links(node: str) -> set[str]:
    return {each["ifname"] for each in json.loads(sh("ip -j link", node))}


def _run_for_a_while(site: Site) -> None:
    """A proxy with something for every kind of rule; it ends as one that is killed, without tidying up."""
    more = {"load_balancer_source_ranges": ("192.0.2.0/24",), "external_ips": (BALANCER,)}
    site.set("web", POD_B, type="NodePort", node_port=30080, session_affinity="ClientIP", **more)
    site.set("empty", cluster_ip="10.96.0.60", cluster_ips=("10.96.0.60",))
    site.start()
    site.until(lambda: VIP in site.rules())
    site.stop()
    assert VIP in site.rules()


@pytest.fixture(params=MODES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with site_in(request.param) as here:
        yield here


def test_nothing_stays(site: Site) -> None:
    links = _links(site.node)
    _run_for_a_while(site)
    assert sh("nft list tables", site.node) != ""
    if site.mode == IPVS:
        assert len(sh(f"cat {SERVERS}", site.node).splitlines()) > 3
        assert VIP in sh("ip addr show kube-ipvs0", site.node)
    _leave(site.node)
    assert sh("nft list ruleset", site.node) == ""
    assert _links(site.node) == links
    if site.mode == IPVS:
        assert len(sh(f"cat {SERVERS}", site.node).splitlines()) == 3  # its heading


@pytest.mark.parametrize("site", [IPTABLES], indirect=True)
def test_what_others_have_in_iptables_stays(site: Site) -> None:
    def saved() -> list[str]:
        lines = sh("sh -c 'iptables-save; ip6tables-save'", site.node).splitlines()
        return [line.partition(" [")[0] for line in lines if not line.startswith("#")]

    for each in THEIRS:
        sh(each, site.node)
    before = saved()
    _run_for_a_while(site)
    assert len(saved()) > len(before) + 20
    _leave(site.node)
    assert [line for line in saved() if "KUBE" in line] == []
    assert [line for line in before if line not in saved()] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_way_to_other_nodes_stays(backend: str) -> None:
    other = Peer(name="b", ip="192.168.7.2", cidr="10.244.2.0/24", mac="0a:00:00:00:00:02")
    with lab() as made:
        node = made.netns("node")
        made.plug(node, made.switch(), "192.168.7.1/24")
        sh("ip route add 198.51.100.0/24 via 192.168.7.9", node)
        before = sh("ip route", node), _links(node)
        for table in ("ip tiphys-hostport", "ip6 tiphys-hostport", "ip tiphys-masquerade", "inet tiphys-policy"):
            sh(f"nft add table {table}", node)
        if backend == "bgp":  # as BIRD makes it
            sh(f"ip route add {other.cidr} via {other.ip} proto bird metric {METRIC}", node)
        else:
            try:
                call_in(path(node), lambda: _join(backend, other))
            except OSError as error:
                pytest.skip(str(error))  # IP-in-IP is not in every kernel
        assert other.cidr in sh("ip route", node)
        _leave(node)
        assert (sh("ip route", node), _links(node)) == before
        assert sh("nft list ruleset", node) == ""


def _join(backend: str, other: Peer) -> None:
    with closing(BACKENDS[backend](4, Path("/nowhere"))) as made:
        made.prepare(Local(name="a", ip="192.168.7.1", cidr="10.244.1.0/24"))
        assert made.sync([other]) == []
