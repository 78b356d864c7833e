"""Virtual servers, real servers and elements of mode ipvs: what is wanted, what the kernel has, what lies between."""

from __future__ import annotations

import struct

import pytest

from tiphys.proxy.ipvs import kernel
from tiphys.proxy.ipvs.kernel import Change, Manner, Place, Real, Server
from tiphys.proxy.ipvs.layout import SHORT_BASE, Layout
from tiphys.proxy.ipvs.state import IpvsRules, Known
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort

A, B = Place("10.244.0.2", 8080), Place("10.244.1.3", 8080)
VIP, NODE = "10.96.0.10", "172.18.0.2"
WEB = Server("tcp", VIP, 80)
RR = Manner("rr")


def port(name: str = "web", protocol: str = "tcp", **changes: object) -> ServicePort:
    values: dict[str, object] = {"cluster_ip": VIP, "port": 80} | changes
    return ServicePort(key=PortKey(ServiceKey("default", name), "", protocol), **values)  # type: ignore[arg-type]


def to(*places: Place, local: bool = False) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip=each.ip, port=each.port, is_local=local) for each in places)


def choice(*places: Place) -> Choice:
    return Choice(cluster=to(*places), any_anywhere=bool(places))


def rules(scheduler: str = "rr", excluded: tuple[str, ...] = ()) -> IpvsRules:
    made = IpvsRules(Layout(cluster_cidr="10.244.0.0/16"), scheduler, excluded)
    made.set_node_ips((NODE,))
    return made


def written(made: IpvsRules) -> tuple[list[Change], list[Change]]:
    found = made.changes()
    made.applied()
    return found


def test_a_service_comes_changes_and_goes() -> None:
    made = rules()
    made.set_service(port(), choice(A))
    assert written(made) == ([Change("new", WEB, RR), Change("new", WEB, place=A)], [])
    made.set_service(port(affinity_seconds=100), choice(A, B))
    assert written(made) == ([Change("set", WEB, Manner("rr", 100)), Change("new", WEB, place=B)], [])
    made.remove_service(port().key)
    assert written(made) == ([], [Change("del", WEB)])
    assert written(made) == ([], [])
    assert made.addresses() == frozenset()


def test_an_endpoint_that_goes_is_drained_and_may_come_back() -> None:
    made = rules()
    made.set_service(port(), choice(A, B))
    written(made)
    made.set_service(port(), choice(A))
    assert written(made) == ([Change("set", WEB, place=B, weight=0)], [])
    assert made.draining() == [WEB]
    made.set_service(port(), choice(A, B))
    assert written(made) == ([Change("set", WEB, place=B)], [])
    made.set_service(port(), choice(A))
    written(made)
    assert made.drained(WEB, {A: Real(1, 7), B: Real(0, 2)}) == []
    assert made.drained(WEB, {A: Real(1, 7), B: Real(0, 0)}) == [Change("del", WEB, place=B)]
    assert made.draining() == []


@pytest.mark.parametrize("protocol", ["udp", "sctp"])
def test_protocols_without_an_end_do_not_drain(protocol: str) -> None:
    made = rules()
    made.set_service(port(protocol=protocol), choice(A, B))
    written(made)
    made.set_service(port(protocol=protocol), choice(A))
    assert written(made) == ([], [Change("del", Server(protocol, VIP, 80), place=B)])


def test_an_earlier_run_is_adopted_but_for_what_is_wanted_no_more() -> None:
    made = rules(excluded=("10.9.0.0/16",))
    gone, others = Server("tcp", "10.96.0.99", 80), Server("tcp", "10.9.9.9", 80)
    made.adopt({WEB: Known(RR, {A: 1, B: 0}), gone: Known(RR), others: Known(RR), Server(mark=7): Known(RR)})
    made.set_service(port(), choice(A))
    assert written(made) == ([], [Change("del", gone)])
    assert made.draining() == [WEB]


def test_node_ports_answer_on_every_address_and_follow_them() -> None:
    made = rules()
    made.set_service(port(node_port=30080), choice(A))
    coming, _ = written(made)
    assert {each.server for each in coming} == {WEB, Server("tcp", NODE, 30080)}
    made.set_node_ips(("172.18.0.9",))
    coming, going = written(made)
    assert {each.server for each in coming} == {Server("tcp", "172.18.0.9", 30080)}
    assert going == [Change("del", Server("tcp", NODE, 30080))]


def test_policy_local_has_a_short_way_for_those_within() -> None:
    made = rules()
    here = Choice(cluster=to(A, B), local=to(A, local=True), any_anywhere=True)
    made.set_service(port(external_local=True, load_balancer_ips=("203.0.113.2",)), here)
    reals = {each.server: set() for each in made.changes()[0]}  # type: dict[Server, set[Place]]
    for each in made.changes()[0]:
        if each.place is not None:
            reals[each.server].add(each.place)
    (short,) = (each for each in reals if each.mark)
    assert short.mark & SHORT_BASE
    assert reals == {WEB: {A, B}, Server("tcp", "203.0.113.2", 80): {A}, short: {A, B}}
    assert f"short-ips {{ 203.0.113.2 . tcp . 80 : {short.mark} }}" in made.script()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(Choice(), "reject-ips { 10.96.0.10 . tcp . 80 }", id="nowhere"),
        pytest.param(Choice(any_anywhere=True), "drop-ips { 10.96.0.10 . tcp . 80 }", id="elsewhere"),
    ],
)
def test_what_has_no_endpoint_is_refused_or_dropped(found: Choice, expected: str) -> None:
    made = rules()
    made.set_service(port(), found)
    assert expected in made.script()
    assert [each.what for each in made.changes()[0]] == ["new"]  # it stays in sight, as with kube-proxy


def test_source_ranges_that_have_the_node_have_the_address_it_asks_with() -> None:
    made = rules()
    guarded = {"load_balancer_ips": ("203.0.113.2",), "load_balancer_source_ranges": ("172.18.0.0/16",)}
    made.set_service(port(**guarded), choice(A))
    assert "203.0.113.2 . tcp . 80 . 203.0.113.2" in made.script()
    made.set_node_ips(("192.0.2.1",))
    assert "203.0.113.2 . tcp . 80 . 203.0.113.2" not in made.script()


def test_only_addresses_of_services_alone_refuse_other_ports() -> None:
    made = rules()
    made.set_service(port(external_ips=(NODE,)), choice(A))
    assert made.addresses() == {VIP, NODE}
    made.set_bound(made.addresses() - {NODE})
    assert f"service-ips {{ {VIP} }}" in made.script()


def test_messages_say_what_the_kernel_reads_back() -> None:
    """A message made here, read as if the kernel had sent it."""
    for version, server, place in ((4, WEB, A), (6, Server("udp", "fd00::1", 53), Place("fd00::2", 5353))):
        message = kernel._message(Change("new", server, Manner("wlc", 60)), 30, version)
        assert kernel._read_server(message.body) == (version, server, Manner("wlc", 60))
        body = kernel._message(Change("new", server, place=place), 30, version).body
        counts = b"".join(kernel.number(kind, value) for kind, value in ((7, 3), (8, 2)))
        head, (kind, real) = body[:4], list(kernel.attributes(body, 4))[1]
        read = kernel._read_real(head + kernel.attribute(kind, real + counts), version)
        assert read == (place, Real(1, 5))
    marked = kernel._message(Change("new", Server(mark=SHORT_BASE | 5), RR), 30, 4)
    assert kernel._read_server(marked.body)[1] == Server(mark=SHORT_BASE | 5)
    assert struct.unpack_from("=BB", marked.body) == (1, 1)
