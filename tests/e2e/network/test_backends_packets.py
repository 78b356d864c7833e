"""Packets between pods of three nodes, through VXLAN, through IP-in-IP and through plain routes.

node a 192.168.7.1 (10.244.1.0/24) ─┐
node b 192.168.7.2 (10.244.2.0/24) ─┼─ switch ─ outside 192.168.7.9
node c 192.168.7.3 (10.244.3.0/24) ─┘
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.netlab import Lab, ask, call_in, lab, path, run_in, sh
from tiphys.base.nft import AsyncNft
from tiphys.network import masquerade
from tiphys.network.agent import BACKENDS
from tiphys.network.backends.ipip import DEVICE
from tiphys.network.backends.model import Backend, Local, Peer
from tiphys.network.backends.vxlan import DEVICES, vtep_mac
from tiphys.network.cni import PodNetwork, PodNetworks
from tiphys.network.subnet import Subnet

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NODES = {"a": 1, "b": 2, "c": 3}


class Site:
    """Three nodes with a pod each, not yet joined."""

    def __init__(self, made: Lab, directory: Path, mtu: int) -> None:
        self.lab = made
        switch = made.switch()
        self.outside = made.netns("out")
        made.plug(self.outside, switch, "192.168.7.9/24")
        made.serve(self.outside, 80, "outside")
        for name, number in NODES.items():
            node, pod = made.netns(name), made.netns(f"pod-{name}")
            made.plug(node, switch, f"192.168.7.{number}/24")
            Subnet(cidrs=(f"10.244.{number}.0/24",), mtu=mtu).write(directory / name / "subnet.json")
            run_in(node, lambda node=node, pod=pod, name=name: self._pod(directory / name, pod))
            made.serve(pod, 80, f"pod-{name}")

    @staticmethod
    async def _pod(directory: Path, netns: str) -> None:
        network = PodNetworks(subnet_file=directory / "subnet.json", state=directory / "state")
        await network.add(PodNetwork(sandbox_id="pod", netns_path=path(netns)))
        network.close()

    def netns(self, name: str) -> str:
        return f"{self.lab.prefix}-{name}"

    def on(self, name: str, work: Callable[[], object]) -> object:
        return call_in(path(self.netns(name)), work)


def local(name: str) -> Local:
    return Local(name=name, ip=f"192.168.7.{NODES[name]}", cidr=f"10.244.{NODES[name]}.0/24")


def peers(*names: str) -> list[Peer]:
    made = [local(name) for name in names]
    return [Peer(name=each.name, ip=each.ip, cidr=each.cidr, mac=vtep_mac(each.name)) for each in made]


MTUS = {"vxlan": 1450, "host-gw": 1500, "ipip": 1480}


@pytest.fixture(params=MTUS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "ipip" and not _has_ipip():
        pytest.skip("this kernel has no IP-in-IP")
    return str(request.param)


def _has_ipip() -> bool:
    with lab() as made, contextlib.suppress(RuntimeError):
        sh("ip link add probe type ipip local 127.0.0.1", made.netns("probe"))
        return True
    return False


@pytest.fixture
def site(backend: str, tmp_path: Path) -> Iterator[Site]:
    with lab() as made:
        yield Site(made, tmp_path, MTUS[backend])


def join(site: Site, backend: str, name: str, *others: str) -> int:
    """What the agent does, once, in a fresh process's place: prepare and sync. Returns the MTU."""

    def work() -> int:
        made: Backend = BACKENDS[backend](4, Path("/nowhere"))
        try:
            mtu = made.prepare(local(name)).mtu
            assert made.sync(peers(*others)) == []
            return mtu
        finally:
            made.close()

    return int(str(site.on(name, work)))


def test_pods_on_different_nodes_see_each_other_without_nat(site: Site, backend: str) -> None:
    for name in NODES:
        mtu = join(site, backend, name, *(other for other in NODES if other != name))
        assert mtu == MTUS[backend]
    for source in NODES:
        for target, number in NODES.items():
            seen = ask(site.netns(f"pod-{source}"), f"10.244.{number}.2", 80)
            assert seen == f"pod-{target} 10.244.{NODES[source]}.2"
    assert ask(site.netns("a"), "10.244.2.2", 80).startswith("pod-b ")
    assert "dport=8472" not in sh("conntrack -L -p udp 2>/dev/null || true", site.netns("a"))


def test_nodes_come_and_go_and_a_restart_takes_over(site: Site, backend: str) -> None:
    join(site, backend, "a", "b")
    join(site, backend, "b", "a")
    join(site, backend, "c", "a", "b")
    pod_a = site.netns("pod-a")
    assert ask(pod_a, "10.244.2.2", 80) == "pod-b 10.244.1.2"
    assert ask(pod_a, "10.244.3.2", 80, timeout=0.3) != "pod-c 10.244.1.2"
    before = sh("ip -d link show tph.1", site.netns("a")) if backend == "vxlan" else ""
    join(site, backend, "a", "b", "c")
    assert (sh("ip -d link show tph.1", site.netns("a")) if backend == "vxlan" else "") == before
    assert ask(pod_a, "10.244.3.2", 80) == "pod-c 10.244.1.2"
    join(site, backend, "a", "c")
    assert "10.244.2.0/24" not in sh("ip route", site.netns("a"))
    if backend == "vxlan":
        assert vtep_mac("b") not in sh("bridge fdb show dev tph.1", site.netns("a"))
        assert "10.244.2.0" not in sh("ip neigh show dev tph.1", site.netns("a"))
    site.on("a", lambda: _clean_up(backend))
    assert "10.244.3.0/24" not in sh("ip route", site.netns("a"))
    links = sh("ip -br link", site.netns("a"))
    assert DEVICES[4] not in links and DEVICE not in links


def _clean_up(backend: str) -> None:
    made = BACKENDS[backend](4, Path("/nowhere"))
    made.clean_up()
    made.close()


def test_what_leaves_the_cluster_has_the_node_address(site: Site, backend: str) -> None:
    join(site, backend, "a", "b")
    join(site, backend, "b", "a")

    async def mask() -> None:
        nft = AsyncNft()
        await masquerade.apply(nft, ["10.244.1.0/24"], "10.244.0.0/16")
        nft.close()

    run_in(site.netns("a"), mask)
    assert ask(site.netns("pod-a"), "192.168.7.9", 80) == "outside 192.168.7.1"
    assert ask(site.netns("pod-a"), "10.244.2.2", 80) == "pod-b 10.244.1.2"
