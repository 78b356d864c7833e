"""Session affinity of IPv6 clients, in all modes: they stay with their endpoint, and leave it when it is gone.

node fd00:10:244::1 ── pod a fd00:10:244::2, pod b fd00:10:244::3
"""

from __future__ import annotations

import os

import pytest

from tests.e2e.netlab import Lab, ask, lab, run_in, sh
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPVS, MODES, NFTABLES, IpvsSettings
from tiphys.proxy.iptables import chains
from tiphys.proxy.iptables.applier import IptablesApplier
from tiphys.proxy.ipvs.applier import IpvsApplier
from tiphys.proxy.ipvs.kernel import MISSING, is_available
from tiphys.proxy.ipvs.layout import Layout as IpvsLayout
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.applier import Applier
from tiphys.proxy.nftables.layout import Layout
from tiphys.proxy.rules import RuleWriter

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PODS = {"a": "fd00:10:244::2", "b": "fd00:10:244::3"}
VIP, CIDR = "fd00:10:96::50", "fd00:10:244::/56"


def _node(made: Lab) -> str:
    node = made.netns("node")
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1", node)
    sh("ip addr add fd00:10:244::1/128 dev lo", node)
    for name, address in PODS.items():
        pod = made.netns(name)
        sh(f"ip link add eth0 netns {pod} type veth peer name v{name} netns {node}")
        sh(f"ip addr add {address}/128 dev eth0 nodad", pod)
        sh("ip link set eth0 up", pod)
        sh(f"ip link set v{name} up", node)
        sh(f"ip addr add fe80::1/64 dev v{name} nodad", node)
        sh(f"ip -6 route add {address}/128 dev v{name}", node)
        sh("ip -6 route add default via fe80::1 dev eth0", pod)
        made.serve(pod, 80, name)
        made.serve(pod, 53, name, udp=True)
    sh("ip -6 route add default via fe80::99 dev va", node)  # nobody: the node only has to know some way
    return node


def _program(mode: str, node: str, *endpoints: str, gone: str = "") -> None:
    async def work() -> None:
        nft = AsyncNft()
        try:
            applier: RuleWriter
            if mode == NFTABLES:
                applier = Applier(nft, Layout(family="ip6", cluster_cidr=CIDR))
            elif mode == IPVS:
                applier = IpvsApplier(nft, IpvsLayout(family="ip6", cluster_cidr=CIDR), IpvsSettings())
            else:
                applier = IptablesApplier(nft, chains.Site(family="ip6", cluster_cidr=CIDR))
            await applier.start()
            for protocol, port in (("tcp", 80), ("udp", 53)):
                key = PortKey(ServiceKey("default", "web"), protocol, protocol)
                service = ServicePort(key=key, cluster_ip=VIP, port=port, affinity_seconds=100)
                places = tuple(Endpoint(ip=PODS[name], port=port, is_local=True) for name in endpoints)
                applier.desired.set_service(service, Choice(cluster=places, any_anywhere=True))
            await applier.apply()
            if gone:
                await applier.forget_clients({f"{PODS[gone]} . 80", f"{PODS[gone]} . 53"})
        finally:
            nft.close()

    run_in(node, work)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_stays_with_its_endpoint_until_it_is_gone(mode: str) -> None:
    if mode == IPVS and not is_available():
        pytest.skip(MISSING)
    with lab() as made:
        node = _node(made)
        _program(mode, node, "a", "b")
        client = f"{made.prefix}-a"
        for port, udp in ((80, False), (53, True)):
            first = ask(client, VIP, port, udp=udp)
            assert first.partition(" ")[0] in PODS
            assert {ask(client, VIP, port, udp=udp) for _ in range(12)} == {first}
        other, gone = ("a", "b") if ask(client, VIP, 80).startswith("b") else ("b", "a")
        _program(mode, node, other, gone=gone)
        assert ask(client, VIP, 80).partition(" ")[0] == other
        assert ask(node, VIP, 80) == f"{other} fd00:10:244::1"
