"""The specification's runner with the plugins of Debian's containernetworking-plugins, and packets."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tests.e2e.netlab import Lab, ask, lab, path, run_in, sh
from tiphys.network.cni import NetworkError, PodInterface, PodNetwork, PodNetworks, PortMapping

PLUGINS: Final = Path("/usr/lib/cni")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not (PLUGINS / "host-local").exists(), reason="containernetworking-plugins is not installed"),
]

T = TypeVar("T")


class Place:
    """A node whose pods are connected by other people's plugins."""

    def __init__(self, made: Lab, directory: Path) -> None:
        self.lab = made
        self.directory = directory
        self.node = made.netns("node")
        sh("sysctl -qw net.ipv4.ip_forward=1", self.node)

    def configure(self, *plugins: dict[str, Any]) -> None:
        (self.directory / "net.d").mkdir(exist_ok=True)
        network = {"cniVersion": "1.0.0", "name": "debian", "plugins": list(plugins)}
        (self.directory / "net.d/10-debian.conflist").write_text(json.dumps(network))

    def ipam(self) -> dict[str, Any]:
        return {
            "type": "host-local",
            "ranges": [[{"subnet": "10.77.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.directory / "addresses"),
        }

    def bridge(self) -> dict[str, Any]:
        return {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": self.ipam()}

    def pod(self, name: str, *ports: PortMapping, **more: int) -> PodNetwork:
        netns = self.lab.netns(name)
        return PodNetwork(
            sandbox_id=f"id-{name}", netns_path=path(netns), name=name, namespace="x", port_mappings=ports, **more
        )

    def run(self, work: Callable[[PodNetworks], Awaitable[T]]) -> T:
        """With a runtime's pod networks, as they are after every start of it."""

        async def body() -> T:
            networks = PodNetworks(
                subnet_file=self.directory / "subnet.json",
                state=self.directory / "state",
                conf_dir=self.directory / "net.d",
                bin_dirs=(PLUGINS,),
            )
            try:
                assert networks.status().ready
                return await work(networks)
            finally:
                networks.close()

        return run_in(self.node, body)

    def held(self) -> list[str]:
        """The addresses that host-local has given away."""
        return sorted(each.name for each in (self.directory / "addresses/debian").glob("10.*"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with lab() as made:
        yield Place(made, tmp_path)


def test_bridge_with_host_local_and_portmap(place: Place) -> None:
    place.configure(place.bridge(), {"type": "portmap", "capabilities": {"portMappings": True}})
    one, two = place.pod("one", PortMapping("TCP", 80, 8080)), place.pod("two")
    first = place.run(lambda networks: networks.add(one))
    second = place.run(lambda networks: networks.add(two))
    assert (first.ips, first.gateway, second.ips) == (("10.77.0.2",), "10.77.0.1", ("10.77.0.3",))
    assert first.mac in sh("ip link show eth0", f"{place.lab.prefix}-one")
    place.lab.serve(f"{place.lab.prefix}-one", 80, "one")
    assert ask(f"{place.lab.prefix}-two", "10.77.0.2", 80) == "one 10.77.0.3"
    assert ask(f"{place.lab.prefix}-two", "10.77.0.1", 8080) == "one 10.77.0.1"  # portmap masquerades its own subnet
    # Not of `one`: portmap 1.1.1 looks for IPv6 rules also where the pod has no such address.
    place.run(lambda networks: networks.check(two))

    sh("ip link del eth0", f"{place.lab.prefix}-two")
    with pytest.raises(NetworkError, match=r"plugin type='bridge' failed \(check\)"):
        place.run(lambda networks: networks.check(two))
    for each in (one, two, one):
        place.run(lambda networks, each=each: networks.delete(each))  # type: ignore[misc]  # bound at once
    assert place.held() == []
    assert "8080" not in sh("iptables-save -t nat", place.node)
    assert "eth0" not in sh("ip -br link", f"{place.lab.prefix}-one")


def test_what_a_crash_left_is_collected(place: Place) -> None:
    place.configure(place.bridge(), {"type": "portmap", "capabilities": {"portMappings": True}})
    kept, lost = place.pod("kept"), place.pod("lost", PortMapping("TCP", 80, 8080))
    for each in (kept, lost):
        place.run(lambda networks, each=each: networks.add(each))  # type: ignore[misc]  # bound at once
    assert place.run(lambda networks: networks.gc({kept.sandbox_id})) == [lost.sandbox_id]
    assert place.held() == ["10.77.0.2"]
    assert "8080" not in sh("iptables-save -t nat", place.node)
    place.run(lambda networks: networks.check(kept))


@pytest.mark.parametrize(
    ("main", "inside"),
    [
        pytest.param({"type": "ptp"}, "eth0@", id="ptp"),
        pytest.param({"type": "macvlan", "master": "up0"}, "eth0@", id="macvlan"),
    ],
)
def test_other_main_plugins(place: Place, main: dict[str, Any], inside: str) -> None:
    sh("ip link add up0 type veth peer name up1", place.node)
    sh("ip link set up0 up", place.node)
    place.configure(main | {"ipam": place.ipam()}, {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}})
    pod = place.pod("one")
    assert place.run(lambda networks: networks.add(pod)).ips == ("10.77.0.2",)
    netns = f"{place.lab.prefix}-one"
    assert inside in sh("ip -br link", netns) and "lo               UNKNOWN" in sh("ip -br link", netns)
    assert sh("sysctl -n net.core.somaxconn", netns).strip() == "500"
    place.run(lambda networks: networks.delete(pod))
    assert place.held() == []


def test_bandwidth_in_a_chain(place: Place) -> None:
    place.configure(place.bridge(), {"type": "bandwidth", "capabilities": {"bandwidth": True}})
    pod = place.pod("one", ingress_bandwidth=8_000_000, egress_bandwidth=16_000_000)
    place.run(lambda networks: networks.add(pod))
    assert "rate 8Mbit" in sh("tc qdisc show", place.node)
    assert "rate 16Mbit" in sh("tc qdisc show", place.node)
    place.run(lambda networks: networks.delete(pod))


def test_the_loopback_plugin_gives_no_address_and_says_so(place: Place) -> None:
    place.configure({"type": "loopback"})
    pod = place.pod("one")
    # Its only address is the loopback's own; it belongs in a chain or beside one, never alone.
    result: PodInterface = place.run(lambda networks: networks.add(pod))
    assert result.ips == ("127.0.0.1", "::1")
    place.run(lambda networks: networks.delete(pod))


def test_addresses_run_out_in_the_plugins_words(place: Place) -> None:
    ipam = place.ipam() | {"ranges": [[{"subnet": "10.77.0.0/30"}]]}
    place.configure(place.bridge() | {"ipam": ipam})
    one, two = place.pod("one"), place.pod("two")
    place.run(lambda networks: networks.add(one))
    with pytest.raises(NetworkError, match="no IP addresses available in range set"):
        place.run(lambda networks: networks.add(two))
    place.run(lambda networks: networks.delete(one))
    assert place.run(lambda networks: networks.add(two)).ips == ("10.77.0.2",)
