"""Addresses of simulated pods: each one's own, used again when it is free."""

from __future__ import annotations

from tiphys.machinery.meta import ObjectName
from tiphys.simulation.pods import Addresses


def name(text: str) -> ObjectName:
    return ObjectName("default", text)


def test_each_has_its_own_until_none_is_left() -> None:
    addresses = Addresses()
    given = [addresses.take(name(f"p{number}"), "100.64.0.0/29") for number in range(6)]
    assert given == [f"100.64.0.{number}" for number in range(2, 7)] + [""]
    addresses.release(name("p1"))
    assert addresses.take(name("late"), "100.64.0.0/29") == "100.64.0.3"


def test_whoever_asks_again_has_the_same() -> None:
    addresses = Addresses()
    first = addresses.take(name("p"), "100.64.0.0/24")
    assert addresses.take(name("p"), "100.64.0.0/24") == first


def test_a_pod_of_the_same_name_on_another_node_has_one_of_that_node() -> None:
    addresses = Addresses()
    addresses.take(name("web-0"), "100.64.0.0/24")
    assert addresses.take(name("web-0"), "100.64.1.0/24") == "100.64.1.2"
    assert addresses.take(name("other"), "100.64.0.0/24") == "100.64.0.3"
    addresses.release(name("web-0"))
    assert {addresses.take(name(each), "100.64.0.0/29") for each in "abcde"} == {
        f"100.64.0.{number}" for number in (2, 4, 5, 6)
    } | {""}


def test_an_address_from_before_is_not_given_out() -> None:
    addresses = Addresses()
    addresses.note(name("old"), "100.64.0.2")
    assert addresses.take(name("new"), "100.64.0.0/24") == "100.64.0.3"


def test_a_node_without_a_range_has_none() -> None:
    assert Addresses().take(name("p"), "") == ""
