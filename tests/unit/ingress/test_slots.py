"""Endpoints and the slots they sit in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tiphys.ingress.haproxy.backends import HEAVIEST, Server, Slots, servers_of
from tiphys.ingress.haproxy.servers import commands_for
from tiphys.ingress.model import Action, ServicePort, Target

SERVERS = st.sets(st.integers(1, 12), max_size=10).map(lambda found: [Server(f"10.0.0.{n}", 80) for n in sorted(found)])


@given(st.lists(SERVERS, min_size=1, max_size=5))
def test_slots_hold_who_is_there_and_nobody_moves(steps: list[list[Server]]) -> None:
    slots = Slots.holding(steps[0])
    told = dict(enumerate(slots.servers))
    for wanted in steps[1:]:
        before = {each: index for index, each in enumerate(slots.servers) if each is not None}
        changed = slots.place(wanted)
        if changed is None:
            assert len(wanted) > len(slots.servers)
            break
        told.update(changed)
        assert told == dict(enumerate(slots.servers))
        assert {each for each in slots.servers if each is not None} == set(wanted)
        after = {each: index for index, each in enumerate(slots.servers) if each is not None}
        assert all(after[each] == before[each] for each in before if each in after)


def test_weights_are_shared_out_among_endpoints() -> None:
    one, two = ServicePort("n", "one", 80), ServicePort("n", "two", 80)
    endpoints = {one: [("10.0.0.1", 8080)], two: [("10.0.1.1", 8080), ("10.0.1.2", 8080)]}
    found = servers_of(Action(targets=(Target(one, 9), Target(two, 1))), endpoints.__getitem__)
    assert [each.weight for each in found] == [HEAVIEST, round(HEAVIEST / 18), round(HEAVIEST / 18)]
    assert servers_of(Action(targets=(Target(one, 0),)), endpoints.__getitem__) == []


def test_what_the_running_proxy_is_told() -> None:
    assert list(commands_for("b", {1: None, 0: Server("10.0.0.1", 80, 7)})) == [
        "set server b/s0 addr 10.0.0.1 port 80",
        "set server b/s0 weight 7",
        "set server b/s0 state ready",
        "set server b/s1 state maint",
    ]
