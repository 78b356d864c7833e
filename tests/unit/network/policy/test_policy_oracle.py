"""Whatever policies, pods and namespaces there are, and however they came about: the rules say what the words say."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.network.policy.world import NODE, Packet, oracle, passes, pod, policy, render_checked, state_of
from tiphys.api.core.v1 import Pod
from tiphys.api.networking.v1 import NetworkPolicy
from tiphys.machinery.meta import ObjectName
from tiphys.network.policy.compile import compile_policy, pod_facts

SPACES = ("x", "y", "z")
labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("a", "b")), max_size=2)


@st.composite
def selectors(draw: st.DrawFn) -> dict[str, Any]:
    expressions = []
    for key in draw(st.lists(st.sampled_from(("app", "tier")), max_size=2, unique=True)):
        operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
        values = draw(st.lists(st.sampled_from(("a", "b")), min_size=1, unique=True)) if "In" in operator else []
        expressions.append({"key": key, "operator": operator, "values": values})
    return {"matchLabels": draw(labels), "matchExpressions": expressions}


@st.composite
def ports(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"protocol": draw(st.sampled_from(("TCP", "UDP", "SCTP")))}
    kind = draw(st.sampled_from(("any", "one", "range", "name")))
    if kind in ("one", "range"):
        made["port"] = draw(st.sampled_from((80, 81, 90)))
        if kind == "range":
            made["endPort"] = made["port"] + draw(st.integers(0, 10))
    if kind == "name":
        made["port"] = draw(st.sampled_from(("web", "dns")))
    return made


@st.composite
def peers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(("pods", "spaces", "both", "block")))
    if kind == "block":
        cidr = draw(st.sampled_from(("10.0.0.0/24", "0.0.0.0/0", "10.0.0.0/29", "192.0.2.0/24")))
        holes = {"10.0.0.0/24": ("10.0.0.4/30", "10.0.0.0/31"), "0.0.0.0/0": ("10.0.0.0/30", "10.0.0.2/31")}
        return (
            {"ipBlock": {"cidr": cidr, "except": draw(st.lists(st.sampled_from(holes[cidr]), unique=True))}}
            if (cidr in holes)
            else {"ipBlock": {"cidr": cidr}}
        )
    made = {}
    if kind in ("pods", "both"):
        made["podSelector"] = draw(selectors())
    if kind in ("spaces", "both"):
        made["namespaceSelector"] = draw(selectors())
    return made


@st.composite
def policies(draw: st.DrawFn, number: int) -> NetworkPolicy:
    def rules(side: str) -> list[dict[str, Any]]:
        return [
            {side: draw(st.lists(peers(), max_size=2)), "ports": draw(st.lists(ports(), max_size=2))}
            for _ in range(draw(st.integers(0, 2)))
        ]

    return policy(
        draw(st.sampled_from(SPACES)),
        f"p{number}",
        pod_selector=draw(selectors()),
        ingress=rules("from"),
        egress=rules("to"),
        policy_types=draw(st.sampled_from(([], ["Ingress"], ["Egress"], ["Ingress", "Egress"]))),
    )


@st.composite
def pods(draw: st.DrawFn, number: int) -> Pod:
    named = draw(
        st.dictionaries(
            st.sampled_from(("web", "dns")),
            st.tuples(st.sampled_from(("TCP", "UDP")), st.sampled_from((80, 81))),
            max_size=2,
        )
    )
    return pod(
        draw(st.sampled_from(SPACES)),
        f"pod{number}",
        f"10.0.0.{number + 1}",
        draw(labels),
        node=draw(st.sampled_from((NODE, NODE, "n2"))),
        ports=named,
        phase=draw(st.sampled_from(("Running", "Running", "Running", "Succeeded"))),
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[NetworkPolicy], list[Pod], dict[str, dict[str, str]]]:
    return (
        [draw(policies(number)) for number in range(draw(st.integers(0, 4)))],
        [draw(pods(number)) for number in range(draw(st.integers(1, 5)))],
        {name: draw(labels) for name in SPACES},
    )


World = tuple[list[NetworkPolicy], list[Pod], dict[str, dict[str, str]]]


def packets(all_pods: list[Pod]) -> list[Packet]:
    addresses = [each.status.pod_ip for each in all_pods] + ["192.0.2.7"]
    return [
        Packet(source, destination, protocol, number)
        for source, destination in itertools.product(addresses, repeat=2)
        for protocol in ("TCP", "UDP")
        for number in (80, 85)
    ]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds())
def test_every_packet_is_judged_as_documented(world: World) -> None:
    content = render_checked(state_of(*world))
    for packet in packets(world[1]):
        assert passes(content, packet) == oracle(*world, packet), packet


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds(), worlds())
def test_the_way_to_a_state_does_not_matter(first: World, second: World) -> None:
    """From any world to any other in single steps gives the content of the other, made at once."""
    state = state_of(*first)
    state.script()
    for each in second[1]:
        facts = pod_facts(each, NODE)
        if facts is not None:
            state.put_pod(facts)
        state.script()
    for name, wanted in second[2].items():
        state.put_namespace(name, wanted)
        state.script()
    for one in second[0]:
        state.put_policy(compile_policy(one))
        state.script()
    here = {(p.metadata.namespace, p.metadata.name) for p in second[1] if pod_facts(p, NODE) is not None}
    for each in first[1]:
        if (each.metadata.namespace, each.metadata.name) not in here:
            state.drop_pod(ObjectName(each.metadata.namespace, each.metadata.name))
            state.script()
    kept = {(p.metadata.namespace, p.metadata.name) for p in second[0]}
    for one in first[0]:
        if (one.metadata.namespace, one.metadata.name) not in kept:
            state.drop_policy(ObjectName(one.metadata.namespace, one.metadata.name))
            state.script()
    assert state.script() == ""
    assert state.written() == render_checked(state_of(*second))
