"""Who gets which address, and who answers for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tiphys.api.core.v1 import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    NodeCondition,
    NodeStatus,
    Service,
    ServiceSpec,
    ServiceStatus,
)
from tiphys.api.discovery.v1 import Endpoint, EndpointConditions, EndpointSlice
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.machinery.meta import ObjectName
from tiphys.network.balancer import ndp
from tiphys.network.balancer.announce import EXCLUDED, announcer
from tiphys.network.balancer.arp import REPLY, REQUEST, Arp, build, parse
from tiphys.network.balancer.assign import Pool, assign

POOL = Pool.parse("192.0.2.1-192.0.2.2,198.51.100.4/31")
BORN = datetime(2026, 1, 1, tzinfo=UTC)


def service(name: str, age: int = 0, has: str = "", **spec: str | tuple[str, ...]) -> Service:
    ingress = (LoadBalancerIngress(ip=has),) if has else ()
    return Service(
        metadata=ObjectMeta(namespace="x", name=name, creation_timestamp=BORN - timedelta(hours=age)),
        spec=ServiceSpec(**({"type": "LoadBalancer"} | spec)),  # type: ignore[arg-type]  # strings, and tuples of them
        status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)),
    )


def addresses(*services: Service) -> dict[str, str]:
    made = assign(services, POOL)
    found = {name.name: ",".join(each) for name, each in made.addresses.items()}
    return found | {name.name: problem for name, problem in made.problems.items()}


def test_a_pool_is_ranges_and_networks() -> None:
    assert list(POOL) == ["192.0.2.1", "192.0.2.2", "198.51.100.4", "198.51.100.5"]
    assert "192.0.2.2" in POOL and "192.0.2.3" not in POOL and "nonsense" not in POOL
    for bad in ("192.0.2.9-192.0.2.1", "192.0.2.1/24", "word"):
        with pytest.raises(ValueError):
            Pool.parse(bad)


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        pytest.param([service("a"), service("b", age=1)], {"b": "192.0.2.1", "a": "192.0.2.2"}, id="oldest first"),
        pytest.param([service("a", has="192.0.2.2")], {"a": "192.0.2.2"}, id="what it has is kept"),
        pytest.param([service("a", has="10.0.0.1")], {"a": "192.0.2.1"}, id="another pool's is not"),
        pytest.param(
            [service("a", has="192.0.2.2"), service("b", age=1, load_balancer_ip="192.0.2.2")],
            {"a": "192.0.2.2", "b": "address 192.0.2.2 is another Service's"},
            id="a wish does not take away",
        ),
        pytest.param([service("a", load_balancer_ip="192.0.2.2")], {"a": "192.0.2.2"}, id="a wish"),
        pytest.param(
            [service("a", load_balancer_ip="10.0.0.1")], {"a": "address 10.0.0.1 is not in the pool"}, id="outside"
        ),
        pytest.param(
            [service("a", has="192.0.2.1"), service("b", has="192.0.2.1")],
            {"a": "192.0.2.1", "b": "192.0.2.2"},
            id="one address, two Services",
        ),
        pytest.param([service("a", load_balancer_class="c"), service("b", type="NodePort")], {}, id="not ours"),
        pytest.param(
            [service(name) for name in "abcde"],
            {"a": "192.0.2.1", "b": "192.0.2.2", "c": "198.51.100.4", "d": "198.51.100.5"}
            | {"e": "no address of the pool is free"},
            id="none left",
        ),
    ],
)
def test_addresses(services: list[Service], expected: dict[str, str]) -> None:
    assert addresses(*services) == expected


def node(name: str, ready: str = "True", **labels: str) -> Node:
    return Node(
        metadata=ObjectMeta(name=name, labels=labels),
        status=NodeStatus(conditions=(NodeCondition(type="Ready", status=ready),)),
    )


def piece(*endpoints: tuple[str, bool]) -> EndpointSlice:
    made = tuple(Endpoint(node_name=name, conditions=EndpointConditions(ready=ready)) for name, ready in endpoints)
    return EndpointSlice(endpoints=made)


def test_the_announcer_is_a_ready_node_and_with_policy_local_one_that_has_an_endpoint() -> None:
    nodes = [node("n1"), node("n2"), node("n3", "Unknown"), Node(metadata=ObjectMeta(name="n4", labels={EXCLUDED: ""}))]
    anywhere, local = service("a"), service("a", external_traffic_policy="Local")
    spread = {announcer(f"192.0.2.{number}", anywhere, nodes, []) for number in range(30)}
    assert spread == {"n1", "n2"}
    for number in range(30):
        address = f"192.0.2.{number}"
        assert announcer(address, local, nodes, [piece(("n2", True), ("n1", False), ("n3", True))]) == "n2"
        assert announcer(address, local, nodes, [piece(("n3", True))]) == ""
        before = announcer(address, anywhere, nodes, [])
        more = announcer(address, anywhere, [*nodes, node("n5")], [])
        assert more in (before, "n5")


def test_arp_there_and_back() -> None:
    mac, other = bytes.fromhex("0a5800000001"), bytes.fromhex("0a5800000002")
    frame = build(other, REPLY, mac, "192.0.2.1", other, "192.0.2.9")
    assert parse(frame) == Arp(REPLY, mac, "192.0.2.1", "192.0.2.9")
    assert parse(frame[:30]) is None and parse(b"\0" * 60) is None
    assert frame[:6] == other and REQUEST == 1
    assert ObjectName("x", "a") in assign([service("a")], POOL).addresses


def test_each_family_has_an_address_of_its_own() -> None:
    both = Pool.parse("192.0.2.1-192.0.2.2,2001:db8::1-2001:db8::2")
    services = [
        service("four", age=3),
        service("six", age=2, ip_families=("IPv6",)),
        service("dual", age=1, ip_families=("IPv6", "IPv4")),
        service("late", ip_families=("IPv4", "IPv6")),
    ]
    made = assign(services, both)
    assert {name.name: found for name, found in made.addresses.items()} == {
        "four": ("192.0.2.1",),
        "six": ("2001:db8::1",),
        "dual": ("2001:db8::2", "192.0.2.2"),
    }
    assert {name.name for name in made.problems} == {"late"}
    # Of a pool of one family a Service of both gets that one.
    alone = assign(services[1:3], Pool.parse("192.0.2.1-192.0.2.2"))
    assert {name.name: found for name, found in alone.addresses.items()} == {"dual": ("192.0.2.1",)}
    assert {name.name for name in alone.problems} == {"six"}


def test_neighbour_discovery_there_and_back() -> None:
    packet = ndp.build("2001:db8::1", bytes.fromhex("0a5800000001"), ndp.SOLICITED | ndp.OVERRIDE)
    assert packet.hex() == "8800000060000000" + "20010db8000000000000000000000001" + "02010a5800000001"
    asked = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + packet[8:24]
    assert ndp.parse(asked) == "2001:db8::1" and ndp.parse(packet) == "" and ndp.parse(b"") == ""
    assert ndp.solicited_group("2001:db8::12:3456") == "ff02::1:ff12:3456"
