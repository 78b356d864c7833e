"""The iptables mode's decisions: whatever came before, the difference leads to what would be written anew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from tiphys.proxy.iptables import state as rules_of
from tiphys.proxy.iptables.chains import PREFIXES, Site
from tiphys.proxy.iptables.found import from_text
from tiphys.proxy.iptables.state import IptablesRules
from tiphys.proxy.model import Choice, Endpoint, PortKey, ServiceKey, ServicePort

endpoints = st.lists(
    st.builds(Endpoint, ip=st.sampled_from(("10.0.0.1", "10.0.0.2", "10.0.0.3")), port=st.just(80)),
    max_size=3,
    unique_by=lambda each: each.ip,
).map(tuple)
choices = st.builds(Choice, cluster=endpoints, local=endpoints, any_anywhere=st.booleans())
services = st.builds(
    ServicePort,
    key=st.builds(PortKey, st.builds(ServiceKey, st.just("x"), st.sampled_from("ab")), st.just(""), st.just("tcp")),
    cluster_ip=st.sampled_from(("10.96.0.1", "10.96.0.2")),
    port=st.just(80),
    node_port=st.sampled_from((0, 30080)),
    external_ips=st.sampled_from(((), ("203.0.113.1",))),
    load_balancer_ips=st.sampled_from(((), ("203.0.113.2",))),
    load_balancer_source_ranges=st.sampled_from(((), ("192.0.2.0/24",))),
    internal_local=st.booleans(),
    external_local=st.booleans(),
    affinity_seconds=st.sampled_from((0, 100)),
)
ranges = st.frozensets(st.sampled_from(("10.96.0.0/16", "10.98.0.0/16")))
steps = st.lists(st.one_of(st.tuples(services, choices), st.sampled_from("ab"), st.just(None), ranges), max_size=8)

Kernel = dict[str, dict[str, Counter[str]]]


def restore(kernel: Kernel, scripts: Iterable[str]) -> None:
    """What iptables-restore --noflush does with one after the other; order within a chain is not looked at."""
    table = ""
    for line in "".join(scripts).splitlines():
        verb, _, rest = line.partition(" ")
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            kernel[table][verb[1:]] = Counter()
        elif verb in ("-A", "-I"):
            target = rest.rpartition("-j ")[2]
            assert not target.startswith("KUBE-") or target in kernel[table], f"no chain for {line}"
            kernel[table][rest.split()[0]][rest.partition(" ")[2]] += 1
        elif verb == "-D":
            chain, _, rule = rest.partition(" ")
            assert kernel[table][chain][rule] > 0, line
            kernel[table][chain] -= Counter([rule])
        elif verb == "-X":
            assert not kernel[table][rest], line
            assert not any(rule.endswith(f"-j {rest}") for rules in kernel[table].values() for rule in rules), line
            del kernel[table][rest]


def empty() -> Kernel:
    return defaultdict(lambda: defaultdict(Counter))


# How many chains go in a transaction: each service port's by themselves, a few, all.
together = st.sampled_from((1, 5, 4000))


@settings(max_examples=150, deadline=None)
@given(steps, together)
def test_differences_add_up(history: list[object], chains: int) -> None:
    with patch.object(rules_of, "CHAINS", chains):
        check(history)


def check(history: list[object]) -> None:
    state = IptablesRules(Site(cluster_cidr="10.0.0.0/8"))
    kernel = empty()
    restore(kernel, state.whole({}, ()))
    for step in history:
        if step is None:
            state.set_node_ips(("192.168.0.1",))
        elif isinstance(step, frozenset):
            state.set_service_cidrs(tuple(sorted(step)))
        elif isinstance(step, str):
            state.remove_service(PortKey(ServiceKey("x", step), "", "tcp"))
        else:
            state.set_service(*step)  # type: ignore[misc]  # a tuple of the two
        restore(kernel, state.flush())
        assert state.flush() == []
    anew = empty()
    restore(anew, state.whole({}, ()))
    assert kernel == anew
    counted = {table: {name: sum(rules.values()) for name, rules in chains.items()} for table, chains in anew.items()}
    assert counted == state.counts()


def many(count: int, endpoint: str) -> IptablesRules:
    state = IptablesRules(Site(cluster_cidr="10.0.0.0/8"))
    for number in range(count):
        key = PortKey(ServiceKey("x", f"s{number}"), "", "tcp")
        service = ServicePort(key=key, cluster_ip=f"10.96.0.{number}", port=80)
        state.set_service(service, Choice(cluster=(Endpoint(ip=endpoint, port=80),), any_anywhere=True))
    return state


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), together)
def test_what_an_earlier_run_left_is_replaced_service_by_service(before: int, after: int, chains: int) -> None:
    with patch.object(rules_of, "CHAINS", chains):
        kernel, anew = empty(), empty()
        restore(kernel, many(before, "10.0.0.1").whole({}, ()))
        counts = {table: {name: sum(rules.values()) for name, rules in each.items()} for table, each in kernel.items()}
        scripts = many(after, "10.0.0.2").whole(counts, ())
        for script in scripts:
            restore(kernel, [script])
            led_to = {rule.rpartition("-j ")[2] for rule in kernel["nat"]["KUBE-SERVICES"]}
            for name in led_to - {"KUBE-MARK-MASQ"}:  # at any moment a service's chain leads to its endpoint
                assert kernel["nat"][list(kernel["nat"][name])[-1].rpartition("-j ")[2]], name
        restore(anew, many(after, "10.0.0.2").whole({}, ()))
    assert kernel == anew
    # The first names what is new; the others those of one service more, the last of them the fixed ones and the lists.
    assert all(script.count("\n:") <= chains + 12 for script in scripts[1:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 12), together)
def test_removal_leaves_nothing(count: int, chains: int) -> None:
    with patch.object(rules_of, "CHAINS", chains):
        kernel = empty()
        restore(kernel, many(count, "10.0.0.1").whole({}, ()))
        kernel["nat"] = defaultdict(Counter, {n: r for n, r in kernel["nat"].items() if n.startswith(PREFIXES)})
        restore(kernel, rules_of.removal("nat", kernel["nat"]))
    assert kernel["nat"] == {}


def test_what_iptables_save_says() -> None:
    saved = """# Generated
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-A PREROUTING -m comment --comment "in -j front" -j KUBE-SERVICES
-A PREROUTING -j CNI-HOSTPORT
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j KUBE-SERVICES
COMMIT
"""
    found = from_text(saved)
    assert found.counts == {"nat": {"PREROUTING": 2, "KUBE-SERVICES": 1, "KUBE-SVC-A": 0}, "filter": {}}
    assert found.jumps == {("nat", "PREROUTING", "KUBE-SERVICES")}
