"""The data paths of nftables, iptables and IPVS with packets: a client outside, a node, two pods behind its bridge.

outside 192.168.9.9 ── sw ── node 192.168.9.1 ── cni0 10.244.1.1 ── pod a 10.244.1.2, pod b 10.244.1.3
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.netlab import Lab, ask, lab, run_in, sh
from tiphys.base.nft import AsyncNft
from tiphys.proxy.config import IPTABLES, IPVS, MODES, NFTABLES, IpvsSettings
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

CIDR = "10.244.0.0/16"
POD_A, POD_B = "10.244.1.2", "10.244.1.3"
NODE, OUTSIDE = "192.168.9.1", "192.168.9.9"
VIP = "10.96.0.50"


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    if request.param == IPVS and not is_available():
        pytest.skip(MISSING)
    return str(request.param)


class Site(Lab):
    """The laboratory, and the mode its node's rules are made in."""

    mode: str


@pytest.fixture(scope="module")
def site(mode: str) -> Iterator[Site]:
    with lab(Site) as made:
        made.mode = mode
        switch = made.switch()
        node, outside = made.netns("node"), made.netns("out")
        made.plug(node, switch, f"{NODE}/24")
        made.plug(outside, switch, f"{OUTSIDE}/24")
        sh("sysctl -qw net.ipv4.ip_forward=1", node)
        # A redirect to the client would use up the rate of ICMP errors that the rejects need.
        sh("sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0", node)
        sh("ip link add cni0 type bridge", node)
        sh("ip addr add 10.244.1.1/24 dev cni0", node)
        sh("ip link set cni0 up", node)
        for name, address in (("a", POD_A), ("b", POD_B)):
            pod = made.netns(name)
            _pod(made, node, pod, address)
            for port in (80, 81):
                made.serve(pod, port, f"{name}{port}")
            made.serve(pod, 53, f"{name}53", udp=True)
        made.serve(node, 9000, "host9000")
        for prefix in ("10.96.0.0/16", "10.244.0.0/16", "203.0.113.0/24"):
            sh(f"ip route add {prefix} via {NODE}", outside)
        sh(f"ip route add default via {OUTSIDE}", node)
        yield made


def _pod(made: Lab, node: str, pod: str, address: str) -> None:
    port = f"v{address.split('.')[-1]}"
    sh(f"ip link add eth0 netns {pod} type veth peer name {port} netns {node}")
    sh(f"ip link set {port} master cni0 up", node)
    sh(f"bridge link set dev {port} hairpin on", node)
    sh(f"ip addr add {address}/24 dev eth0", pod)
    sh("ip link set eth0 up", pod)
    sh("ip route add default via 10.244.1.1", pod)


def port(name: str = "web", **changes: object) -> ServicePort:
    protocol = str(changes.pop("protocol", "tcp"))
    values: dict[str, object] = {"cluster_ip": VIP, "port": 80} | changes
    return ServicePort(key=PortKey(ServiceKey("default", name), "", protocol), **values)  # type: ignore[arg-type]


def to(*places: tuple[str, int], local: bool = True) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip=ip, port=number, is_local=local) for ip, number in places)


def program(site: Site, *services: tuple[ServicePort, Choice]) -> None:
    """Make the node's rules exactly these (a new process would do the same)."""

    async def work() -> None:
        nft = AsyncNft()
        try:
            applier: RuleWriter
            if site.mode == NFTABLES:
                applier = Applier(nft, Layout(cluster_cidr=CIDR))
            elif site.mode == IPVS:
                applier = IpvsApplier(nft, IpvsLayout(cluster_cidr=CIDR), IpvsSettings())
            else:
                applier = IptablesApplier(nft, chains.Site(cluster_cidr=CIDR))
            await applier.start()
            applier.desired.set_node_ips((NODE,))
            for service, choice in services:
                applier.desired.set_service(service, choice)
            await applier.apply()
            assert not await applier.verify()
            assert not await applier.apply()
        finally:
            nft.close()

    run_in(f"{site.prefix}-node", work)


def names(site: Site) -> tuple[str, str, str, str]:
    return tuple(f"{site.prefix}-{name}" for name in ("node", "out", "a", "b"))  # type: ignore[return-value]


BOTH = to((POD_A, 80), (POD_B, 81))


def test_cluster_ip_from_pod_keeps_the_source_and_spreads(site: Site) -> None:
    _, _, pod_a, _ = names(site)
    program(site, (port(), Choice(cluster=BOTH, any_anywhere=True)))
    seen = Counter(ask(pod_a, VIP, 80) for _ in range(40))
    # To itself the pod is masqueraded (hairpin), to the other pod it is seen as it is.
    assert set(seen) == {"a80 10.244.1.1", f"b81 {POD_A}"}
    assert min(seen.values()) >= 5


def test_cluster_ip_from_the_node_and_from_outside_is_masqueraded(site: Site) -> None:
    node, outside, _, _ = names(site)
    program(site, (port(), Choice(cluster=to((POD_B, 81)), any_anywhere=True)))
    assert ask(node, VIP, 80) == "b81 10.244.1.1"
    assert ask(outside, VIP, 80) == "b81 10.244.1.1"


def test_two_ports_and_protocols_of_one_address_are_told_apart(site: Site) -> None:
    _, _, pod_a, _ = names(site)
    program(
        site,
        (port(), Choice(cluster=to((POD_B, 81)), any_anywhere=True)),
        (port("dns", protocol="udp", port=80), Choice(cluster=to((POD_B, 53)), any_anywhere=True)),
    )
    assert ask(pod_a, VIP, 80) == f"b81 {POD_A}"
    assert ask(pod_a, VIP, 80, udp=True) == f"b53 {POD_A}"


def test_node_port_external_ip_and_load_balancer_ip(site: Site) -> None:
    node, outside, pod_a, _ = names(site)
    service = port(node_port=30080, external_ips=("203.0.113.1",), load_balancer_ips=("203.0.113.2",))
    program(site, (service, Choice(cluster=to((POD_B, 81)), any_anywhere=True)))
    for source in (outside, node, pod_a):
        assert ask(source, NODE, 30080) == "b81 10.244.1.1"
        assert ask(source, "203.0.113.1", 80) == "b81 10.244.1.1"
        assert ask(source, "203.0.113.2", 80) == "b81 10.244.1.1"


def test_policy_local_keeps_the_source_from_outside_and_takes_the_short_way_inside(site: Site) -> None:
    node, outside, _pod_a, _ = names(site)
    service = port(node_port=30080, external_local=True, load_balancer_ips=("203.0.113.2",))
    program(site, (service, Choice(cluster=to((POD_A, 80), local=False), local=to((POD_B, 81)), any_anywhere=True)))
    for address, number in ((NODE, 30080), ("203.0.113.2", 80)):
        assert ask(outside, address, number) == f"b81 {OUTSIDE}"
        assert ask(node, address, number) == "a80 10.244.1.1"
    assert ask(f"{site.prefix}-b", NODE, 30080) == f"a80 {POD_B}"


def test_policy_local_without_local_endpoint_is_dropped(site: Site) -> None:
    node, outside, _, _ = names(site)
    service = port(node_port=30080, external_local=True)
    program(site, (service, Choice(cluster=to((POD_A, 80), local=False), any_anywhere=True)))
    assert ask(outside, NODE, 30080, timeout=0.5) == "timeout"
    assert ask(node, NODE, 30080) == "a80 10.244.1.1"


def test_no_endpoints_are_refused(site: Site) -> None:
    node, outside, pod_a, _ = names(site)
    program(site, (port(node_port=30080, external_ips=("203.0.113.1",)), Choice()))
    for source in (node, outside, pod_a):
        assert ask(source, VIP, 80) == "refused"
        if site.mode != IPTABLES:  # iptables sends what it does not know on its way, as kube-proxy does
            assert ask(source, VIP, 80, udp=True) == "refused"  # a port the Service does not have
        assert ask(source, NODE, 30080) == "refused"
        assert ask(source, "203.0.113.1", 80) == "refused"


def test_internal_policy_local(site: Site) -> None:
    _, _, pod_a, _ = names(site)
    program(site, (port(internal_local=True), Choice(local=to((POD_B, 81)), any_anywhere=True)))
    assert {ask(pod_a, VIP, 80) for _ in range(5)} == {f"b81 {POD_A}"}
    program(site, (port(internal_local=True), Choice(any_anywhere=True)))
    assert ask(pod_a, VIP, 80, timeout=0.5) == "timeout"


def test_session_affinity_survives_new_endpoints_and_a_restart_and_ends_with_its_endpoint(site: Site) -> None:
    node, outside, pod_a, _ = names(site)
    service = port(affinity_seconds=100, node_port=30080)
    program(site, (service, Choice(cluster=BOTH, any_anywhere=True)))
    assert len({ask(outside, NODE, 30080) for _ in range(12)}) == 1
    first = ask(pod_a, VIP, 80)
    assert {ask(pod_a, VIP, 80) for _ in range(12)} == {first}
    program(site, (service, Choice(cluster=to((POD_A, 81), (POD_B, 80), (POD_A, 80), (POD_B, 81)), any_anywhere=True)))
    assert {ask(pod_a, VIP, 80) for _ in range(12)} == {first}
    if site.mode != NFTABLES:
        return
    sh("nft flush map ip kube-proxy affinity", node)
    assert len({(ask(pod_a, VIP, 80), sh("nft flush map ip kube-proxy affinity", node)) for _ in range(40)}) == 4


def test_load_balancer_source_ranges(site: Site) -> None:
    node, outside, _, _ = names(site)
    service = port(load_balancer_ips=("203.0.113.2",), load_balancer_source_ranges=("198.51.100.0/24", NODE + "/32"))
    program(site, (service, Choice(cluster=to((POD_B, 81)), any_anywhere=True)))
    assert ask(outside, "203.0.113.2", 80, timeout=0.5) == "timeout"
    assert ask(node, "203.0.113.2", 80) == "b81 10.244.1.1"
    allowed = port(load_balancer_ips=("203.0.113.2",), load_balancer_source_ranges=("192.168.0.0/16", "192.168.9.0/24"))
    program(site, (allowed, Choice(cluster=to((POD_B, 81)), any_anywhere=True)))
    assert ask(outside, "203.0.113.2", 80) == "b81 10.244.1.1"


def test_host_network_endpoint(site: Site) -> None:
    node, outside, pod_a, _ = names(site)
    program(site, (port(node_port=30080), Choice(cluster=to((NODE, 9000)), any_anywhere=True)))
    assert ask(pod_a, VIP, 80) == f"host9000 {POD_A}"
    assert ask(outside, NODE, 30080).startswith("host9000 ")
    assert ask(node, VIP, 80).startswith("host9000 ")


def test_marks_do_not_outlive_the_choice(site: Site) -> None:
    node, outside, _, _ = names(site)
    program(site, (port(node_port=30080), Choice(cluster=to((POD_B, 81)), any_anywhere=True)))
    assert ask(outside, NODE, 30080).startswith("b81")
    entries = sh("conntrack -L -p tcp --orig-port-dst 30080 2>/dev/null", node)
    assert "mark=0" in entries and entries.count("mark=") == entries.count("mark=0 ")
