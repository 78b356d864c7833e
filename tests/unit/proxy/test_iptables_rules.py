"""The iptables mode's decisions: whatever came before, the difference leads to what would be written anew."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from tiphys.proxy.iptables.chains import Site
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


def restore(kernel: Kernel, script: str) -> None:
    """What iptables-restore --noflush does; order within a chain is not looked at."""
    table = ""
    for line in script.splitlines():
        verb, _, rest = line.partition(" ")
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            kernel[table][verb[1:]] = Counter()
        elif verb in ("-A", "-I"):
            kernel[table][rest.split()[0]][rest.partition(" ")[2]] += 1
        elif verb == "-D":
            chain, _, rule = rest.partition(" ")
            assert kernel[table][chain][rule] > 0, line
            kernel[table][chain] -= Counter([rule])
        elif verb == "-X":
            assert not kernel[table][rest], line
            assert not any(rule.endswith(f"-j {rest}") for rules in kernel[table].values() for rule in rules), line
            del kernel[table][rest]


@settings(max_examples=150, deadline=None)
@given(steps)
def test_differences_add_up(history: list[object]) -> None:
    state = IptablesRules(Site(cluster_cidr="10.0.0.0/8"))
    kernel: Kernel = defaultdict(lambda: defaultdict(Counter))
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
        assert state.flush() == ""
    anew: Kernel = defaultdict(lambda: defaultdict(Counter))
    restore(anew, state.whole({}, ()))
    assert kernel == anew
    counted = {table: {name: sum(rules.values()) for name, rules in chains.items()} for table, chains in anew.items()}
    assert counted == state.counts()
