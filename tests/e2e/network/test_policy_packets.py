"""NetworkPolicy with packets: pods of one node, a pod of another node, a client outside, the node itself.

outside 192.168.9.9 ─┐
pod far 10.244.2.2 ──┴ other 192.168.9.2 ── sw ── node 192.168.9.1 ── tph0 ── pods a, b, c 10.244.1.2 …
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.netlab import Lab, ask, lab, path, run_in, sh
from tests.unit.network.policy.world import pod, policy, state_of
from tiphys.api.networking.v1 import NetworkPolicy
from tiphys.base.netns import call_in
from tiphys.base.nft import AsyncNft, Nft
from tiphys.machinery.meta import ObjectName
from tiphys.network.cni import PodNetwork, PodNetworks
from tiphys.network.policy.compile import compile_policy, pod_facts
from tiphys.network.policy.listing import expected_summary, summary_of
from tiphys.network.policy.state import PolicyState
from tiphys.network.subnet import Subnet
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.applier import Applier
from tiphys.proxy.nftables.layout import Layout

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

A, B, C, FAR = "10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.2.2"
NODE, OTHER, OUTSIDE = "192.168.9.1", "192.168.9.2", "192.168.9.9"
VIP = "10.96.0.50"
SPACES = {"x": {"kubernetes.io/metadata.name": "x"}, "y": {"kubernetes.io/metadata.name": "y", "team": "blue"}}
PODS = [
    pod("x", "a", A, {"app": "web"}, node="n1", ports={"web": ("TCP", 80)}),
    pod("x", "b", B, {"app": "client"}, node="n1"),
    pod("y", "c", C, {"app": "client"}, node="n1"),
    pod("y", "far", FAR, {"app": "far"}, node="n2", ports={"web": ("TCP", 81)}),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("cni")
    with lab() as made:
        switch = made.switch()
        node, other, outside = (made.netns(name) for name in ("node", "other", "out"))
        for netns, address in ((node, NODE), (other, OTHER), (outside, OUTSIDE)):
            made.plug(netns, switch, f"{address}/24")
        sh("ip addr add 10.244.2.2/32 dev lo", other)
        sh(f"ip route add 10.244.2.0/24 via {OTHER}", node)
        sh(f"ip route add default via {OUTSIDE}", node)
        for netns in (other, outside):
            sh(f"ip route add 10.244.1.0/24 via {NODE}", netns)
            sh(f"ip route add 10.96.0.0/16 via {NODE}", netns)
        pods = [made.netns(name) for name in ("a", "b", "c")]
        Subnet(cidrs=("10.244.1.0/24",), mtu=1400, cluster_cidr="10.244.0.0/16").write(directory / "subnet.json")

        async def connect() -> None:
            networks = PodNetworks(subnet_file=directory / "subnet.json", state=directory / "state")
            try:
                for netns in pods:
                    await networks.add(PodNetwork(sandbox_id=netns, netns_path=path(netns), name=netns))
            finally:
                networks.close()

        run_in(node, connect)
        for netns, name in ((pods[0], "a"), (pods[1], "b"), (pods[2], "c"), (other, "far"), (outside, "out")):
            for number in (80, 81, 85):
                made.serve(netns, number, f"{name}{number}")
            made.serve(netns, 53, f"{name}53", udp=True)
        yield made


def program(site: Lab, *policies: NetworkPolicy) -> None:
    """Put the policies in force on the node, and see that the kernel has them."""

    def work() -> None:
        nft = Nft()
        try:
            state = state_of(policies, PODS, SPACES)
            nft.run(state.whole())
            found = summary_of(nft.list("table inet tiphys-policy"))
            assert found == expected_summary(state.written(), state.versions)
        finally:
            nft.close()

    call_in(path(f"{site.prefix}-node"), work)


def reach(site: Lab, source: str, address: str, port: int = 80, *, udp: bool = False, as_pod: str = "") -> bool:
    answer = ask(f"{site.prefix}-{source}", address, port, udp=udp, timeout=0.4, source=as_pod)
    assert answer != "refused", f"{source} → {address}:{port}"
    return answer != "timeout"


def only(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"matchLabels": dict(pairs)}


def test_without_policies_everything_passes(site: Lab) -> None:
    program(site)
    assert all(reach(site, source, A) for source in ("b", "c", "node", "out"))
    assert reach(site, "other", A, as_pod=FAR)
    assert reach(site, "a", FAR) and reach(site, "a", OUTSIDE)


def test_default_deny_of_ingress_leaves_the_node_its_probes_and_the_pod_itself(site: Lab) -> None:
    program(site, policy("x", "deny"))
    assert not any(reach(site, source, A) for source in ("b", "c", "out"))
    assert not reach(site, "other", A, as_pod=FAR)
    assert not reach(site, "b", A, 53, udp=True)
    assert reach(site, "node", A)
    assert reach(site, "a", A)
    assert reach(site, "a", C) and reach(site, "b", C)  # another namespace; and going out is not its business


def test_default_deny_of_egress_leaves_the_way_to_the_own_node(site: Lab) -> None:
    program(site, policy("x", "deny", policy_types=["Egress"]))
    for address in (C, B, FAR, OUTSIDE):
        assert not reach(site, "a", address)
    site.serve(f"{site.prefix}-node", 9100, "agent")
    assert reach(site, "a", NODE, 9100) and reach(site, "a", "10.244.1.1", 9100)
    assert reach(site, "c", A)  # answers are no new connection


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        pytest.param({"podSelector": only(("app", "client"))}, {"b"}, id="pods of the own namespace"),
        pytest.param({"namespaceSelector": only(("team", "blue"))}, {"c", "far"}, id="namespaces"),
        pytest.param(
            {"namespaceSelector": only(("team", "blue")), "podSelector": only(("app", "client"))}, {"c"}, id="both"
        ),
        pytest.param({"namespaceSelector": {}}, {"b", "c", "far"}, id="all namespaces"),
        pytest.param({"ipBlock": {"cidr": "192.168.9.0/24"}}, {"out"}, id="block"),
        pytest.param({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.1.0/24"]}}, {"far", "out"}, id="except"),
    ],
)
def test_who_may_come_in(site: Lab, peer: dict[str, Any], allowed: set[str]) -> None:
    program(site, policy("x", "allow", pod_selector=only(("app", "web")), ingress=[{"from": [peer]}]))
    reached = {source for source in ("b", "c", "out") if reach(site, source, A)}
    if reach(site, "other", A, as_pod=FAR):
        reached.add("far")
    assert reached == allowed


@pytest.mark.parametrize(
    ("ports", "tcp", "udp"),
    [
        pytest.param([{"protocol": "TCP", "port": 80}], {80}, False, id="number"),
        pytest.param([{"protocol": "TCP", "port": 81, "endPort": 90}], {81, 85}, False, id="range"),
        pytest.param([{"protocol": "TCP", "port": "web"}], {80}, False, id="name"),
        pytest.param([{"protocol": "UDP"}], set(), True, id="protocol"),
        pytest.param([{"port": 85}, {"protocol": "UDP", "port": 53}], {85}, True, id="several"),
    ],
)
def test_which_ports_are_open(site: Lab, ports: list[dict[str, Any]], tcp: set[int], udp: bool) -> None:
    program(site, policy("x", "allow", ingress=[{"from": [], "ports": ports}]))
    assert {number for number in (80, 81, 85) if reach(site, "c", A, number)} == tcp
    assert reach(site, "c", A, 53, udp=True) == udp


def test_a_named_port_going_out_is_the_peers(site: Lab) -> None:
    rule = {"to": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]}
    program(site, policy("y", "out", policy_types=["Egress"], egress=[rule]))
    assert {number for number in (80, 81) if reach(site, "c", A, number)} == {80}
    program(site, policy("x", "out", policy_types=["Egress"], egress=[rule]))
    assert {number for number in (80, 81) if reach(site, "b", FAR, number)} == {81}


def test_both_ends_have_a_word(site: Lab) -> None:
    allow_in = policy("x", "in", ingress=[{"from": [{"namespaceSelector": {}}]}])
    deny_out = policy("y", "out", policy_types=["Egress"])
    program(site, allow_in, deny_out)
    assert reach(site, "b", A) and not reach(site, "c", A)
    program(site, allow_in, policy("y", "out-to-a", egress=[{"to": [{"ipBlock": {"cidr": f"{A}/32"}}]}]), deny_out)
    assert reach(site, "c", A) and not reach(site, "c", B)


def test_a_service_is_judged_by_its_pods_and_a_pod_reaches_itself_through_it(site: Lab) -> None:
    node = f"{site.prefix}-node"

    async def service() -> None:
        nft = AsyncNft()
        try:
            applier = Applier(nft, Layout(cluster_cidr="10.244.0.0/16"))
            await applier.start()
            front = ServicePort(key=PortKey(ServiceKey("x", "web"), "", "tcp"), cluster_ip=VIP, port=8000)
            chosen = Choice(cluster=(Endpoint(ip=A, port=80, is_local=True),), any_anywhere=True)
            applier.desired.set_service(front, chosen)
            await applier.apply()
        finally:
            nft.close()

    run_in(node, service)
    try:
        program(site, policy("x", "allow", ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]))
        assert reach(site, "b", VIP, 8000) and not reach(site, "c", VIP, 8000)
        assert reach(site, "a", VIP, 8000) and reach(site, "node", VIP, 8000)
        program(site, policy("x", "deny", policy_types=["Ingress", "Egress"]))
        assert reach(site, "a", VIP, 8000)
        assert not reach(site, "b", VIP, 8000)
    finally:
        sh("nft delete table ip kube-proxy", node)


def test_established_connections_go_on(site: Lab) -> None:
    program(site)
    held: list[socket.socket] = []

    def connect() -> None:
        channel = socket.create_connection((A, 80), timeout=2)
        held.append(channel)

    call_in(path(f"{site.prefix}-b"), connect)
    program(site, policy("x", "deny"))
    assert not reach(site, "b", A)
    with held[0] as channel:
        channel.send(b"?")
        assert channel.recv(100).decode() == f"a80 {B}"


def test_both_families_are_understood_by_the_kernel(site: Lab) -> None:
    def work() -> None:
        state = PolicyState((4, 6))
        six = pod("x", "six", "fd00::5", {"app": "web"}, node="n1", ports={"web": ("UDP", 53)})
        for each in (*PODS, six):
            facts = pod_facts(each, "n1")
            assert facts is not None
            state.put_pod(facts)
        block = {"ipBlock": {"cidr": "fd00::/64", "except": ["fd00::8/125", "fd00::20/128"]}}
        rule = {"from": [block, {"podSelector": {}}], "ports": [{"port": "web", "protocol": "UDP"}, {"port": 80}]}
        state.put_policy(compile_policy(policy("x", "six", pod_selector=only(("app", "web")), ingress=[rule])))
        nft = Nft()
        try:
            nft.run(state.whole())
            assert summary_of(nft.list("table inet tiphys-policy")) == expected_summary(state.written(), (4, 6))
            assert "fd00::5" in state.written().maps["ingress6"]
            state.drop_pod(ObjectName("x", "six"))
            nft.run(state.script())
            assert summary_of(nft.list("table inet tiphys-policy")) == expected_summary(state.written(), (4, 6))
        finally:
            nft.close()

    call_in(path(f"{site.prefix}-node"), work)
