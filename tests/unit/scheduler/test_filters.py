"""Filters: which nodes a pod fits on, and the exact words when there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.scheduler.builders import (
    HOSTNAME,
    ZONE,
    FixedNamespaces,
    feasible_nodes,
    make_cache,
    make_framework,
    make_node,
    make_pod,
)
from tiphys.scheduler.framework.diagnosis import Unschedulable

GPU = {"key": "gpu", "value": "true", "effect": "NoSchedule"}
APP = {"matchLabels": {"app": "web"}}
SPREAD = "node(s) didn't match pod topology spread constraints"


def test_resources() -> None:
    cache = make_cache(make_node("small", cpu="1"), make_node("large", cpu="8"))
    framework = make_framework()
    assert feasible_nodes(framework, cache, make_pod(requests={"cpu": "2"})) == {"large"}
    assert feasible_nodes(framework, cache, make_pod(requests={"cpu": "1"})) == {"small", "large"}
    assert (
        feasible_nodes(framework, cache, make_pod(requests={"cpu": "9", "memory": "1Ti"}))
        == "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient memory."
    )


def test_what_is_placed_is_subtracted() -> None:
    cache = make_cache(
        make_node("a", cpu="2", pods="2"),
        make_node("b", cpu="2", pods="1"),
        placed={"a": [make_pod(requests={"cpu": "1500m"})], "b": [make_pod()]},
    )
    assert (
        feasible_nodes(make_framework(), cache, make_pod(requests={"cpu": "1"}))
        == "0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods."
    )
    assert feasible_nodes(make_framework(), cache, make_pod(requests={"cpu": "500m"})) == {"a"}


def test_extended_resources() -> None:
    cache = make_cache(make_node("plain"), make_node("gpu", more={"nvidia.com/gpu": "2"}))
    framework = make_framework()
    assert feasible_nodes(framework, cache, make_pod(requests={"nvidia.com/gpu": "1"})) == {"gpu"}
    cache.assume(make_pod(requests={"nvidia.com/gpu": "2"}), "gpu")
    assert (
        feasible_nodes(framework, cache, make_pod(requests={"nvidia.com/gpu": "1"}))
        == "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    )


def test_no_nodes() -> None:
    assert Unschedulable(0).message() == "no nodes available to schedule pods"


def test_each_node_counts_for_its_first_reason() -> None:
    cache = make_cache(
        make_node("full", cpu="1"),
        make_node("tainted", taints=[GPU]),
        make_node("cordoned", unschedulable=True),
        make_node("other-zone"),
    )
    pod = make_pod(requests={"cpu": "2"}, nodeSelector={HOSTNAME: "full"})
    assert feasible_nodes(make_framework(), cache, pod) == (
        "0/4 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, "
        "1 node(s) had untolerated taint {gpu: true}, 1 node(s) were unschedulable."
    )


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        ({"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "true"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "value": "false"}, False),
        ({"key": "cpu", "operator": "Exists"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], fits: bool) -> None:
    cache = make_cache(make_node("a", taints=[GPU]))
    found = feasible_nodes(make_framework(), cache, make_pod(tolerations=[toleration]))
    assert found == ({"a"} if fits else "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}.")


def test_a_soft_taint_does_not_reject() -> None:
    cache = make_cache(make_node("a", taints=[{**GPU, "effect": "PreferNoSchedule"}]))
    assert feasible_nodes(make_framework(), cache, make_pod()) == {"a"}


def test_a_cordoned_node_takes_what_tolerates_it() -> None:
    cache = make_cache(make_node("a", unschedulable=True))
    tolerant = make_pod(tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
    assert feasible_nodes(make_framework(), cache, tolerant) == {"a"}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([[expression("disk", "In", "ssd", "nvme")]], {"a", "b"}),
        ([[expression("disk", "NotIn", "ssd")]], {"b", "c"}),
        ([[expression("disk", "Exists")]], {"a", "b"}),
        ([[expression("disk", "DoesNotExist")]], {"c"}),
        ([[expression("cores", "Gt", "8")]], {"b"}),
        ([[expression("cores", "Lt", "8")]], {"a"}),
        ([[expression("disk", "Exists"), expression("cores", "Gt", "8")]], {"b"}),
        ([[expression("disk", "In", "ssd")], [expression("cores", "Gt", "8")]], {"a", "b"}),
        ([[]], "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."),
    ],
)
def test_node_affinity(terms: list[list[dict[str, Any]]], expected: set[str] | str) -> None:
    cache = make_cache(
        make_node("a", labels={"disk": "ssd", "cores": "4"}),
        make_node("b", labels={"disk": "nvme", "cores": "16"}),
        make_node("c"),
    )
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert feasible_nodes(make_framework(), cache, make_pod(affinity=affinity)) == expected


def test_labels_that_change_are_seen() -> None:
    cache = make_cache(make_node("a"), make_node("b"))
    framework, pod = make_framework(), make_pod(nodeSelector={"disk": "ssd"})
    assert isinstance(feasible_nodes(framework, cache, pod), str)
    cache.set_node(make_node("b", labels={"disk": "ssd"}))
    assert feasible_nodes(framework, cache, pod) == {"b"}
    cache.remove_node("b")
    assert feasible_nodes(framework, cache, pod) == (
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    )


def test_a_daemon_pod_names_its_node() -> None:
    cache = make_cache(make_node("a"), make_node("b", cpu="1"), make_node("c"))
    term = {"matchFields": [expression("metadata.name", "In", "b")]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    assert feasible_nodes(make_framework(), cache, make_pod(affinity=affinity)) == {"b"}
    assert feasible_nodes(make_framework(), cache, make_pod(requests={"cpu": "2"}, affinity=affinity)) == (
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )


def with_port(ip: str, port: int, protocol: str = "TCP") -> Any:
    ports = [{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]
    return make_pod(containers=[{"name": "c", "image": "app", "ports": ports}])


@pytest.mark.parametrize(
    ("used", "wanted", "fits"),
    [
        (("", 80), ("", 80), False),
        (("", 80), ("10.0.0.1", 80), False),
        (("10.0.0.1", 80), ("0.0.0.0", 80), False),
        (("10.0.0.1", 80), ("10.0.0.1", 80), False),
        (("10.0.0.1", 80), ("10.0.0.2", 80), True),
        (("", 80), ("", 81), True),
        (("", 80, "UDP"), ("", 80, "TCP"), True),
    ],
)
def test_host_ports(used: tuple[Any, ...], wanted: tuple[Any, ...], fits: bool) -> None:
    cache = make_cache(make_node("a"), placed={"a": [with_port(*used)]})
    expected = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    assert feasible_nodes(make_framework(), cache, with_port(*wanted)) == ({"a"} if fits else expected)


def pod_affinity(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def zoned() -> list[Any]:
    """a and b in zone 1, c in zone 2, d in none."""
    return [
        make_node("a", labels={ZONE: "1"}),
        make_node("b", labels={ZONE: "1"}),
        make_node("c", labels={ZONE: "2"}),
        make_node("d"),
    ]


WEB_IN_ZONE = {"labelSelector": APP, "topologyKey": ZONE}
WEB_ON_HOST = {"labelSelector": APP, "topologyKey": HOSTNAME}


def test_pod_affinity() -> None:
    cache = make_cache(*zoned(), placed={"a": [make_pod(labels={"app": "web"})]})
    framework = make_framework()
    assert feasible_nodes(framework, cache, make_pod(affinity=pod_affinity("podAffinity", WEB_IN_ZONE))) == {"a", "b"}
    assert feasible_nodes(framework, cache, make_pod(affinity=pod_affinity("podAffinity", WEB_ON_HOST))) == {"a"}
    elsewhere = make_pod(namespace="other", affinity=pod_affinity("podAffinity", WEB_IN_ZONE))
    assert feasible_nodes(framework, cache, elsewhere) == (
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."
    )


def test_the_first_of_a_group_may_start_anywhere_in_the_topology() -> None:
    cache = make_cache(*zoned())
    itself = make_pod(labels={"app": "web"}, affinity=pod_affinity("podAffinity", WEB_IN_ZONE))
    assert feasible_nodes(make_framework(), cache, itself) == {"a", "b", "c"}


def test_pod_anti_affinity_both_ways() -> None:
    cache = make_cache(*zoned(), placed={"a": [make_pod(labels={"app": "web"})]})
    framework = make_framework()
    avoids = make_pod(labels={"app": "db"}, affinity=pod_affinity("podAntiAffinity", WEB_IN_ZONE))
    assert feasible_nodes(framework, cache, avoids) == {"c", "d"}
    cache.assume(avoids, "c")
    assert feasible_nodes(framework, cache, make_pod(labels={"app": "web"})) == {"a", "b", "d"}
    assert feasible_nodes(framework, cache, make_pod(labels={"app": "db"})) == {"a", "b", "c", "d"}
    cache.forget(avoids)
    assert feasible_nodes(framework, cache, make_pod(labels={"app": "web"})) == {"a", "b", "c", "d"}


def test_anti_affinity_messages() -> None:
    cache = make_cache(make_node("a"), make_node("b"))
    framework = make_framework()
    anti = pod_affinity("podAntiAffinity", WEB_ON_HOST)
    cache.assume(make_pod(labels={"app": "web"}, affinity=anti), "a")
    cache.assume(make_pod(labels={"app": "db"}, affinity=anti), "b")
    both = make_pod(labels={"app": "web"}, affinity=anti)
    assert feasible_nodes(framework, cache, both) == (
        "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, "
        "1 node(s) didn't satisfy existing pods anti-affinity rules."
    )


def test_affinity_by_namespace_selector() -> None:
    namespaces = FixedNamespaces({"default": {}, "shop": {"team": "x"}, "bank": {"team": "y"}})
    cache = make_cache(
        *zoned(),
        placed={"a": [make_pod(namespace="shop", labels={"app": "web"})]},
        namespaces=namespaces,
    )
    framework = make_framework(namespaces=namespaces)
    for selector, expected in (({"matchLabels": {"team": "x"}}, {"a", "b"}), ({}, {"a", "b"})):
        term = {**WEB_IN_ZONE, "namespaceSelector": selector}
        assert feasible_nodes(framework, cache, make_pod(affinity=pod_affinity("podAffinity", term))) == expected
    term = {**WEB_IN_ZONE, "namespaceSelector": {"matchLabels": {"team": "y"}}}
    assert isinstance(feasible_nodes(framework, cache, make_pod(affinity=pod_affinity("podAffinity", term))), str)


def spread(max_skew: int = 1, label: str = ZONE, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "maxSkew": max_skew,
            "topologyKey": label,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": APP,
            **more,
        }
    ]


def test_topology_spread() -> None:
    """Zone 1 has two, zone 2 one: another goes to zone 2 only; d has no zone."""
    web = [make_pod(labels={"app": "web"}) for _ in range(3)]
    cache = make_cache(*zoned(), placed={"a": web[:1], "b": web[1:2], "c": web[2:]})
    framework = make_framework()
    pod = make_pod(labels={"app": "web"}, topologySpreadConstraints=spread())
    assert feasible_nodes(framework, cache, pod) == {"c"}
    assert feasible_nodes(
        framework, cache, make_pod(labels={"app": "web"}, topologySpreadConstraints=spread(max_skew=2))
    ) == {"a", "b", "c"}
    cache.set_node(make_node("c", labels={ZONE: "2"}, unschedulable=True))
    assert feasible_nodes(framework, cache, pod) == (
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), "
        "1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints."
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"c"}),
        (
            {"minDomains": 3},
            f"0/4 nodes are available: 1 {SPREAD} (missing required label), 3 {SPREAD}.",
        ),
    ],
    ids=["default", "min-domains"],
)
def test_min_domains(more: dict[str, Any], expected: set[str] | str) -> None:
    web = [make_pod(labels={"app": "web"}) for _ in range(3)]
    cache = make_cache(*zoned(), placed={"a": web[:2], "c": web[2:]})
    pod = make_pod(labels={"app": "web"}, topologySpreadConstraints=spread(**more))
    assert feasible_nodes(make_framework(), cache, pod) == expected


def test_nodes_the_pod_cannot_use_do_not_count_unless_asked() -> None:
    """Zone 2 is empty, but its only node is excluded by the pod's selector: zone 1 need not wait for it."""
    nodes = [make_node("a", labels={ZONE: "1", "pool": "x"}), make_node("c", labels={ZONE: "2"})]
    cache = make_cache(*nodes, placed={"a": [make_pod(labels={"app": "web"})]})
    framework = make_framework()
    for policy, expected in (
        ("Honor", {"a"}),
        (
            "Ignore",
            f"0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 {SPREAD}.",
        ),
    ):
        rules = spread(nodeAffinityPolicy=policy)
        pod = make_pod(labels={"app": "web"}, nodeSelector={"pool": "x"}, topologySpreadConstraints=rules)
        assert feasible_nodes(framework, cache, pod) == expected


def test_terminating_pods_are_not_spread() -> None:
    going = make_pod(labels={"app": "web"}, metadata={"deletionTimestamp": "2024-01-01T00:00:00Z"})
    cache = make_cache(*zoned()[:3], placed={"a": [going]})
    pod = make_pod(labels={"app": "web"}, topologySpreadConstraints=spread())
    assert feasible_nodes(make_framework(), cache, pod) == {"a", "b", "c"}


def test_features_that_nodes_declare() -> None:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    container = {"name": "c", "image": "app", "restartPolicyRules": [rule]}
    old, new = make_node("old"), make_node("new")
    status = msgspec.structs.replace(new.status, declared_features=("RestartAllContainersOnContainerExits", "Other"))
    cache, framework = make_cache(old, msgspec.structs.replace(new, status=status)), make_framework()
    assert feasible_nodes(framework, cache, make_pod()) == {"old", "new"}
    assert feasible_nodes(framework, cache, make_pod(containers=[container])) == {"new"}
    row = cache.nodes.row_of
    # Also when one node is asked about, as preemption does.
    assert framework.rejections(make_pod(containers=[container]), cache.nodes, row["old"])
    assert not framework.rejections(make_pod(containers=[container]), cache.nodes, row["new"])
    cache.remove_node("new")
    assert feasible_nodes(framework, cache, make_pod(containers=[container])) == (
        "0/1 nodes are available: 1 node declared features check failed - unsatisfied requirements: "
        "RestartAllContainersOnContainerExits."
    )
