"""Elements of the maps: slots drawn as in the code, differences that touch only what changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiphys.proxy.ledger import Element
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort
from tiphys.proxy.nftables.elements import fill_slots
from tiphys.proxy.nftables.layout import Layout, Mode, TrafficClass
from tiphys.proxy.nftables.state import Desired


def slots(text: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip=letter, port=80) for letter in text)


def service(name: str = "web", **changes: object) -> ServicePort:
    values: dict[str, object] = {"cluster_ip": "10.96.0.1", "port": 80} | changes
    return ServicePort(key=PortKey(ServiceKey("default", name), "", "tcp"), **values)  # type: ignore[arg-type]


def to(*ips: str) -> Choice:
    return Choice(cluster=tuple(Endpoint(ip=ip, port=8080) for ip in ips), any_anywhere=bool(ips))


@pytest.mark.parametrize(
    ("previous", "wanted", "expected"),
    [("", "ABC", "ABC"), ("ABCD", "ACDE", "AECD"), ("ABCD", "ACD", "ADC"), ("ABC", "", ""), ("AB", "ABC", "ABC")],
)
def test_slots(previous: str, wanted: str, expected: str) -> None:
    assert fill_slots(slots(previous), slots(wanted)) == slots(expected)


@given(st.text("ABCDEFGH", max_size=8).map(lambda t: "".join(dict.fromkeys(t))), st.sets(st.sampled_from("ABCDEFGH")))
def test_slots_hold_everything_once_and_keep_places(previous: str, wanted: set[str]) -> None:
    filled = "".join(each.ip for each in fill_slots(slots(previous), slots("".join(sorted(wanted)))))
    assert sorted(filled) == sorted(wanted)
    for index, letter in enumerate(previous[: len(filled)]):
        assert letter not in wanted or filled[index] == letter


def test_a_change_writes_only_itself() -> None:
    desired = Desired(Layout())
    for number in range(50):
        desired.set_service(
            service(f"s{number}", cluster_ip=f"10.96.0.{number}"), to("10.1.0.1", "10.1.0.2", "10.1.0.3")
        )
    assert desired.flush().count("add chain") == 1  # one class for all
    desired.applied()
    assert desired.flush() == ""
    desired.set_service(service("s7", cluster_ip="10.96.0.7"), to("10.1.0.1", "10.1.0.9", "10.1.0.3"))
    script = desired.flush()
    assert script.count("\n") == 2 and "10.1.0.9 . 8080" in script and "10.1.0.3" not in script
    desired.applied()
    desired.remove_service(service("s7").key)
    assert "add" not in desired.flush() and "10.96.0.8" not in desired.flush()


def test_unused_classes_go_and_come_back() -> None:
    desired = Desired(Layout())
    sticky = service("sticky", cluster_ip="10.96.0.2", affinity_seconds=60)
    desired.set_service(service(), to("10.1.0.1"))
    desired.set_service(sticky, to("10.1.0.1"))
    desired.flush()
    desired.applied()
    desired.drop_unused_classes()
    assert desired.flush() == ""  # all are in use
    desired.remove_service(sticky.key)
    desired.drop_unused_classes()
    script = desired.flush()
    assert "delete chain ip kube-proxy lb-internal-tcp-1-60\n" in script
    assert "delete chain ip kube-proxy affinity-60\n" in script
    assert "lb-internal-tcp-1-0" not in script
    # Wanted again before that was written: what goes is written before what comes.
    desired.set_service(sticky, to("10.1.0.1"))
    script = desired.flush()
    for chain in ("lb-internal-tcp-1-60", "affinity-60"):
        gone, made = f"delete chain ip kube-proxy {chain}\n", f"add chain ip kube-proxy {chain}\n"
        assert script.index(gone) < script.index(made)
    desired.applied()
    assert desired.flush() == ""


def test_one_address_of_two_services_belongs_to_the_first_and_then_to_the_other() -> None:
    desired = Desired(Layout())
    first, second = service("a"), service("b", external_ips=("10.96.0.1",))
    desired.set_service(first, to("10.1.0.1"))
    desired.set_service(second, to("10.1.0.2"))
    desired.flush()
    desired.applied()
    desired.remove_service(first.key)
    script = desired.flush()
    assert "delete element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 }" in script
    assert "add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 :" in script


def test_an_earlier_run_is_adopted_without_a_write() -> None:
    desired = Desired(Layout())
    desired.set_service(service(), to("10.1.0.1", "10.1.0.2"))
    desired.set_service(service("gone", cluster_ip="10.96.0.9"), to("10.1.0.5"))
    desired.flush()
    desired.applied()
    found: dict[str, dict[str, str]] = {}
    for element, value in desired._ledger._have.items():
        found.setdefault(element.container, {})[element.key] = value
    for traffic, number in desired._classes.items():
        found.setdefault("classes", {})[str(number << 20)] = f"goto {traffic.chain}"
    again = Desired(Layout())
    again.adopt(found)
    # In another order, and with one endpoint in another place.
    again.set_service(service(), to("10.1.0.2", "10.1.0.1"))
    script = again.flush()
    assert "add" not in script and "10.96.0.9" in script and "10.96.0.1 " not in script


def test_class_names_tell_their_class() -> None:
    traffic = TrafficClass(Mode.EXTERNAL, "udp", 12, 10800)
    assert TrafficClass.of_chain(traffic.chain) == traffic
    assert TrafficClass.of_chain("services") is None
    assert Element("service-ips", "k").container == "service-ips"
