"""The whole proxy in a node's namespace: objects change in the caches, packets follow; restarts; meddling.

node 192.168.9.1 ── cni0 10.244.1.1 ── pod a 10.244.1.2, pod b 10.244.1.3
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from tests.e2e.netlab import Background, Lab, ask, call_in, lab, path, sh
from tiphys.api.core.v1 import Node, NodeAddress, NodeStatus, Service, ServicePort, ServiceSpec
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.api.networking.v1 import ServiceCIDR, ServiceCIDRSpec
from tiphys.client import SharedInformer
from tiphys.proxy import Proxy, ProxyConfig
from tiphys.proxy.config import IPTABLES, IPVS, MODES, NFTABLES, IpvsSettings
from tiphys.proxy.ipvs.kernel import MISSING, is_available

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# How rules are listed, and how others break them.
LISTING = {
    NFTABLES: "nft -a list table ip kube-proxy 2>/dev/null",
    IPTABLES: "iptables-save",
    IPVS: "sh -c 'nft -a list table ip kube-proxy-ipvs; ip -br addr show kube-ipvs0; cat /proc/net/ip_vs' 2>/dev/null",
}
MEDDLING = {
    NFTABLES: ("nft flush map ip kube-proxy service-ips", "nft delete table ip kube-proxy"),
    IPTABLES: ("iptables -t nat -F KUBE-SERVICES", "iptables -t nat -F PREROUTING", "iptables -t nat -F"),
    IPVS: ("ip link delete kube-ipvs0", "ip addr flush dev kube-ipvs0", "nft delete table ip kube-proxy-ipvs"),
}
POD_A, POD_B, NODE, VIP = "10.244.1.2", "10.244.1.3", "192.168.9.1", "10.96.0.50"


class Caches:
    """What `Informers` gives, filled by hand in the proxy's loop."""

    def __init__(self) -> None:
        self.known: dict[type, SharedInformer[Any]] = {}

    def of(self, kind: type, **_: str) -> SharedInformer[Any]:
        if kind not in self.known:
            self.known[kind] = SharedInformer(kind.__name__)
        return self.known[kind]


class Site:
    """A node with two pods, and a proxy that can be started again."""

    def __init__(self, made: Lab, mode: str) -> None:
        self.lab = made
        self.mode = mode
        self.version = 0
        self.cidrs: tuple[str, ...] = ("10.96.0.0/16",)
        self.ipvs = IpvsSettings()
        self.services: dict[str, Service] = {}
        self.slices: dict[str, EndpointSlice] = {}
        self.node = made.netns("node")
        sh("ip link add eth0 type bridge", self.node)
        sh(f"ip addr add {NODE}/24 dev eth0", self.node)
        sh("ip link set eth0 up", self.node)
        sh("ip route add default via 192.168.9.254", self.node)
        sh("sysctl -qw net.ipv4.ip_forward=1", self.node)
        sh("ip link add cni0 type bridge", self.node)
        sh("ip addr add 10.244.1.1/24 dev cni0", self.node)
        sh("ip link set cni0 up", self.node)
        self.pods = []
        for name, address in (("a", POD_A), ("b", POD_B)):
            pod = made.netns(name)
            sh(f"ip link add eth0 netns {pod} type veth peer name v{name} netns {self.node}")
            sh(f"ip link set v{name} master cni0 up", self.node)
            sh(f"ip addr add {address}/24 dev eth0", pod)
            sh("ip link set eth0 up", pod)
            sh("ip route add default via 10.244.1.1", pod)
            made.serve(pod, 80, name)
            made.serve(pod, 53, name, udp=True)
            self.pods.append(pod)
        self.proxy: Proxy | None = None
        self.background: Background | None = None
        self.caches = Caches()

    def start(self) -> None:
        self.caches = Caches()
        self.proxy = None

        async def work() -> None:
            self.proxy = Proxy(
                None,  # type: ignore[arg-type]  # the proxy only reads
                self.caches,  # type: ignore[arg-type]
                "n1",
                self.mode,
                config=ProxyConfig(
                    cluster_cidr="10.244.0.0/16",
                    sync_period=0.1,
                    healthz_bind_address=f"{NODE}:10256",
                    ipvs=self.ipvs,
                ),
            )
            self._fill()
            await self.proxy.run()

        self.background = Background(self.node, work)
        self.until(lambda: self.proxy is not None and self.proxy.ready.is_set())

    def stop(self) -> None:
        if self.background is not None:
            self.background.stop()
            self.background = None

    def _fill(self) -> None:
        address = NodeAddress(type="InternalIP", address=NODE)
        node = Node(
            metadata=ObjectMeta(name="n1", uid="n1", resource_version="1"), status=NodeStatus(addresses=(address,))
        )
        self.caches.of(Node).replace([node], "1")
        meta = ObjectMeta(name="kubernetes", uid="c", resource_version=str(self.version))
        cidrs = [ServiceCIDR(metadata=meta, spec=ServiceCIDRSpec(cidrs=self.cidrs))]
        self.caches.of(ServiceCIDR).replace(cidrs, str(self.version))
        self.caches.of(Service).replace(list(self.services.values()), str(self.version))
        self.caches.of(EndpointSlice).replace(list(self.slices.values()), str(self.version))

    def set(self, name: str, *backends: str, protocol: str = "TCP", port: int = 80, **spec: Any) -> None:
        self.version += 1
        meta = ObjectMeta(name=name, namespace="default", uid=name, resource_version=str(self.version))
        ports = (ServicePort(name="", port=port, protocol=protocol, node_port=spec.pop("node_port", None)),)
        spec = {"cluster_ip": VIP, "cluster_ips": (VIP,), "type": "ClusterIP"} | spec
        self.services[name] = Service(metadata=meta, spec=ServiceSpec(ports=ports, **spec))
        self.slices[name] = EndpointSlice(
            metadata=ObjectMeta(
                name=f"{name}-1",
                namespace="default",
                uid=name,
                resource_version=str(self.version),
                labels={"kubernetes.io/service-name": name},
            ),
            address_type="IPv4",
            ports=(EndpointPort(name="", port=port, protocol=protocol),),
            endpoints=tuple(
                Endpoint(addresses=(ip,), node_name="n1", conditions=EndpointConditions(ready=True)) for ip in backends
            ),
        )
        self._push()

    def drain(self, name: str) -> None:
        """Let every endpoint be terminating, but still serving."""
        self.version += 1
        before = self.slices[name]
        conditions = EndpointConditions(ready=False, serving=True, terminating=True)
        self.slices[name] = replace(
            before,
            metadata=replace(before.metadata, resource_version=str(self.version)),
            endpoints=tuple(replace(each, conditions=conditions) for each in before.endpoints),
        )
        self._push()

    def remove(self, name: str) -> None:
        self.version += 1
        self.services.pop(name)
        self.slices.pop(name)
        self._push()

    def rules(self) -> str:
        """All rules about Services, as the kernel has them."""
        return sh(f"{LISTING[self.mode]}; true", self.node)

    def _push(self) -> None:
        if self.background is not None:
            self.background.call(self._fill)

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come to pass"
            time.sleep(0.01)


@contextmanager
def site_in(mode: str) -> Iterator[Site]:
    """A site of a proxy mode, taken away at the end; skips where this kernel has no such mode."""
    if mode == IPVS and not is_available():
        pytest.skip(MISSING)
    with lab() as made:
        here = Site(made, mode)
        try:
            yield here
        finally:
            here.stop()


@pytest.fixture(params=MODES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with site_in(request.param) as here:
        yield here


def test_services_come_change_and_go(site: Site) -> None:
    pod = site.pods[0]
    site.start()
    site.set("web", POD_B)
    site.until(lambda: ask(pod, VIP, 80, timeout=0.3) == f"b {POD_A}")
    site.set("web", POD_A)
    site.until(lambda: ask(site.node, VIP, 80, timeout=0.3) == "a 10.244.1.1")
    site.set("web")
    site.until(lambda: ask(pod, VIP, 80, timeout=0.3) == "refused")
    site.set("web", POD_B, type="NodePort", node_port=30080)
    site.until(lambda: ask(site.node, NODE, 30080, timeout=0.3) == "b 10.244.1.1")
    site.remove("web")
    site.until(lambda: VIP not in site.rules())


def test_services_that_are_gone_leave_nothing(site: Site) -> None:
    def lines() -> list[str]:
        # Without handles and counters, which are never the same twice, and in an order that says nothing.
        found = re.sub(r"# handle \d+|\[\d+:\d+\]|#.*", "", site.rules())
        return sorted(line.strip() for line in found.splitlines())

    site.start()
    before = lines()
    for turn in range(2):  # a class comes back after it was swept
        site.set("web", POD_A, POD_B, type="NodePort", node_port=30080, session_affinity="ClientIP")
        site.set("one", POD_B, cluster_ip="10.96.0.60", cluster_ips=("10.96.0.60",))
        site.until(lambda: ask(site.pods[0], VIP, 80, timeout=0.3) is not None)
        site.until(lambda: ask(site.pods[0], "10.96.0.60", 80, timeout=0.3) == f"b {POD_A}")
        most = len(lines())
        site.remove("web")
        site.until(lambda most=most: len(before) < len(lines()) < most)  # type: ignore[misc]
        assert ask(site.pods[0], "10.96.0.60", 80) == f"b {POD_A}", turn
        site.remove("one")
        # The memory of clients is kept by time, in the kernel; it names no rule.
        site.until(lambda: [each for each in lines() if "expires" not in each] == before)


def test_rules_and_connections_survive_the_proxy(site: Site) -> None:
    pod = site.pods[0]
    site.set("web", POD_B)
    site.set("old", POD_B, cluster_ip="10.96.0.60", cluster_ips=("10.96.0.60",))
    site.start()
    assert ask(pod, VIP, 80) == f"b {POD_A}"

    def connect() -> socket.socket:
        channel = socket.create_connection((VIP, 80), timeout=2)
        channel.settimeout(2)
        return channel

    held = call_in(path(pod), connect)
    before = site.rules()
    site.stop()
    assert ask(pod, VIP, 80) == f"b {POD_A}"
    site.remove("old")
    site.start()
    after = site.rules()
    assert "10.96.0.60" in before and "10.96.0.60" not in after
    handles = [line for line in before.splitlines() if "# handle" in line]
    assert [line for line in after.splitlines() if "# handle" in line] == handles  # nothing was made anew
    held.sendall(b"?")
    assert held.recv(100) == f"b {POD_A}".encode()
    held.close()


def test_what_others_break_is_repaired(site: Site) -> None:
    pod = site.pods[0]
    site.set("web", POD_B)
    site.start()
    for command in MEDDLING[site.mode]:
        sh(command, site.node)
        site.until(lambda: ask(pod, VIP, 80, timeout=0.3) == f"b {POD_A}")
    sh("nft flush ruleset", site.node)
    site.set("web", POD_A)
    site.until(lambda: ask(site.node, VIP, 80, timeout=0.3) == "a 10.244.1.1")


def test_another_mode_takes_over(site: Site) -> None:
    pod = site.pods[0]
    site.set("web", POD_B)
    site.start()
    site.stop()
    other = IPTABLES if site.mode == NFTABLES else NFTABLES
    before, site.mode = site.mode, other
    site.start()
    assert ask(pod, VIP, 80) == f"b {POD_A}"
    assert VIP in site.rules()
    site.mode = before
    assert VIP not in site.rules() and "KUBE-SERVICES" not in site.rules()


def test_udp_clients_are_moved(site: Site) -> None:
    site.set("dns", POD_A, protocol="UDP", port=53)
    site.start()

    def connect() -> socket.socket:
        channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        channel.settimeout(0.3)
        channel.connect((VIP, 53))
        return channel

    client = call_in(path(site.node), connect)

    def answered_by() -> str:
        try:
            client.send(b"?")
            return client.recv(100).decode().split()[0]
        except OSError:
            return ""

    site.until(lambda: answered_by() == "a")
    site.set("dns", POD_B, protocol="UDP", port=53)  # the client goes on sending from the same port
    site.until(lambda: answered_by() == "b")
    client.close()


def test_what_no_service_has_of_the_services_range_does_not_leave_the_node(site: Site) -> None:
    def asked(client: str, address: str, port: int = 80) -> str:
        return ask(client, address, port, timeout=0.5).partition(" ")[0]

    outside, nobody = site.lab.netns("outside"), "10.96.77.77"
    sh(f"ip link add eth0 netns {outside} type veth peer name outside netns {site.node}")
    sh("ip link set outside master eth0 up", site.node)
    sh("ip addr add 192.168.9.254/24 dev eth0", outside)
    sh("ip link set eth0 up", outside)
    sh("ip route add default via " + NODE, outside)
    for address in (nobody, VIP):
        sh(f"ip addr add {address}/32 dev lo", outside)
    site.lab.serve(outside, 80, "outside")
    site.lab.serve(outside, 81, "outside")
    assert asked(site.node, nobody) == "outside"  # so it would be without a proxy
    site.set("web", POD_B)
    site.start()
    for client in (site.node, site.pods[0]):
        assert asked(client, VIP) == "b"
        assert asked(client, VIP, 81) == "refused"
        assert asked(client, nobody) != "outside"
        assert asked(client, "192.168.9.254") == "outside"
    site.stop()
    site.start()  # what was there is taken over as it is
    assert asked(site.node, nobody) != "outside"
    site.cidrs = ("10.96.0.0/24", "10.97.0.0/16")
    site.set("web", POD_B)
    site.until(lambda: asked(site.node, nobody) == "outside")
    assert asked(site.node, VIP) == "b"


def test_health_checks(site: Site) -> None:
    local: dict[str, Any] = {"external_traffic_policy": "Local", "health_check_node_port": 30999}
    local["type"] = "LoadBalancer"
    site.set("web", POD_B, node_port=30080, **local)
    site.start()

    def get(port: int, url: str) -> tuple[int, dict[str, Any]]:
        def work() -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection(NODE, port, timeout=2)
            connection.request("GET", url)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            connection.close()
            return answer.status, body

        return call_in(path(site.node), work)

    assert get(30999, "/") == (
        200,
        {"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": True},
    )
    site.drain("web")  # it serves who is connected, but is no place to send anybody new to
    site.until(lambda: get(30999, "/")[0] == 503)
    assert get(30999, "/")[1]["localEndpoints"] == 0
    site.set("web", POD_B, node_port=30080, **local)
    site.until(lambda: get(30999, "/")[0] == 200)
    site.set("web", node_port=30080, **local)
    site.until(lambda: get(30999, "/")[0] == 503)
    status, body = get(10256, "/healthz")
    assert (status, body["nodeEligible"]) == (200, True)
