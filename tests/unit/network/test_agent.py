"""What the network agent reads out of Nodes, and the rules and files it makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.api.core.v1 import Node, NodeAddress, NodeSpec, NodeStatus
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.network.agent import local_of, locals_of, peers_of
from tiphys.network.backends.model import Peer
from tiphys.network.cni.hostport import elements_of
from tiphys.network.cni.ipam import Allocation
from tiphys.network.cni.model import PortMapping
from tiphys.network.masquerade import rules
from tiphys.network.subnet import Subnet


def node(name: str, cidr: str = "", ip: str = "", data: str = "") -> Node:
    annotations = {"flannel.alpha.coreos.com/backend-data": data} if data else {}
    addresses = (NodeAddress(type="Hostname", address=name), NodeAddress(type="InternalIP", address=ip)) if ip else ()
    return Node(
        metadata=ObjectMeta(name=name, annotations=annotations),
        spec=NodeSpec(pod_cidr=cidr, pod_cidrs=(cidr,) if cidr else ()),
        status=NodeStatus(addresses=addresses),
    )


def test_peers_are_complete_nodes_other_than_ours() -> None:
    nodes = [
        node("me", "10.244.0.0/24", "192.168.0.1"),
        node("young"),
        node("no-address", "10.244.1.0/24"),
        node("silent", "10.244.2.0/24", "192.168.0.3"),
        node("other", "10.244.3.0/24", "192.168.0.4", '{"VNI":1,"VtepMAC":"0A:00:00:00:00:01"}'),
        node("damaged", "10.244.4.0/24", "192.168.0.5", "{nonsense"),
    ]
    assert peers_of(nodes, "me") == [
        Peer(name="damaged", ip="192.168.0.5", cidr="10.244.4.0/24"),
        Peer(name="other", ip="192.168.0.4", cidr="10.244.3.0/24", mac="0a:00:00:00:00:01"),
        Peer(name="silent", ip="192.168.0.3", cidr="10.244.2.0/24"),
    ]
    assert local_of(nodes[1]) is None and local_of(nodes[2]) is None


def test_masquerade_leaves_the_cluster_and_multicast_alone() -> None:
    script = rules(["10.244.1.0/24"], "10.244.0.0/16")
    assert "ip saddr 10.244.1.0/24 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade" in script
    assert "ip6" not in script


def test_subnet_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "subnet.json"
    assert Subnet.read(path) is None
    subnet = Subnet(cidrs=("10.244.1.0/24",), mtu=1400, cluster_cidr="10.244.0.0/16")
    subnet.write(path)
    assert Subnet.read(path) == subnet
    path.write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        Subnet.read(path)


def test_a_node_of_two_families_has_a_way_in_each() -> None:
    dual = Node(
        metadata=ObjectMeta(
            name="dual",
            annotations={"flannel.alpha.coreos.com/backend-v6-data": '{"VNI":1,"VtepMAC":"0a:00:00:00:00:06"}'},
        ),
        spec=NodeSpec(pod_cidr="fd00:1::/64", pod_cidrs=("fd00:1::/64", "10.244.5.0/24")),
        status=NodeStatus(
            addresses=(
                NodeAddress(type="InternalIP", address="192.168.0.5"),
                NodeAddress(type="InternalIP", address="fd00::5"),
            )
        ),
    )
    assert list(locals_of(dual)) == [6, 4]  # the primary family first
    assert peers_of([dual], "me", 6) == [Peer(name="dual", ip="fd00::5", cidr="fd00:1::/64", mac="0a:00:00:00:00:06")]
    assert peers_of([dual], "me", 4) == [Peer(name="dual", ip="192.168.0.5", cidr="10.244.5.0/24")]
    alone = Node(metadata=dual.metadata, spec=dual.spec, status=NodeStatus(addresses=dual.status.addresses[:1]))
    assert locals_of(alone) == {}  # its pods would have addresses nobody finds


def test_host_ports_are_of_the_family_of_the_pod() -> None:
    ports = (PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 5353, "192.0.2.1"))
    pods = [Allocation("10.244.0.5", "s", "x/p", ports), Allocation("fd00::5", "s", "x/p", ports)]
    assert elements_of(pods, 4) == {
        ("hairpin", "10.244.0.5 . 10.244.0.5"): "",
        ("ports", "tcp . 8080"): "10.244.0.5 . 80",
        ("ip-ports", "192.0.2.1 . udp . 5353"): "10.244.0.5 . 53",
    }
    assert elements_of(pods, 6) == {("hairpin", "fd00::5 . fd00::5"): "", ("ports", "tcp . 8080"): "fd00::5 . 80"}
