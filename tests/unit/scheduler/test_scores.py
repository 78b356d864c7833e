"""Scores, plugin by plugin, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.scheduler.builders import HOSTNAME, ZONE, make_cache, make_framework, make_node, make_pod, scores
from tiphys.machinery.selectors import LabelSelector

APP = {"matchLabels": {"app": "web"}}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        # a: 1 of 4 cpu, 2 of 8 GiB after the pod; b: 3 of 4, 4 of 8
        ({}, {"a": (75 + 75) // 2, "b": (25 + 50) // 2}),
        ({"scoringStrategy": {"type": "MostAllocated"}}, {"a": 25, "b": (75 + 50) // 2}),
        (
            {
                "scoringStrategy": {
                    "type": "RequestedToCapacityRatio",
                    "requestedToCapacityRatio": {
                        "shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]
                    },
                    "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}],
                }
            },
            {"a": 25, "b": (75 * 3 + 50) // 4},
        ),
    ],
    ids=["least", "most", "ratio"],
)
def test_node_resources_fit(args: dict[str, Any], expected: dict[str, float]) -> None:
    cache = make_cache(make_node("a"), make_node("b"), placed={"b": [make_pod(requests={"cpu": "2", "memory": "2Gi"})]})
    framework = make_framework(only=["NodeResourcesFit"], args={"NodeResourcesFit": args})
    assert scores(framework, cache, make_pod(requests={"cpu": "1", "memory": "2Gi"})) == expected


def test_a_container_without_requests_counts_a_little() -> None:
    cache = make_cache(make_node("a", cpu="1", memory="2000Mi"))
    framework = make_framework(only=["NodeResourcesFit"])
    assert scores(framework, cache, make_pod()) == {"a": 90}  # 100m of 1, 200Mi of 2000Mi


def test_balanced_allocation() -> None:
    """a: half of both; b: a quarter of cpu, all of memory."""
    cache = make_cache(make_node("a", cpu="2", memory="4Gi"), make_node("b", cpu="4", memory="2Gi"))
    framework = make_framework(only=["NodeResourcesBalancedAllocation"])
    assert scores(framework, cache, make_pod(requests={"cpu": "1", "memory": "2Gi"})) == {"a": 100, "b": 62}
    assert scores(framework, cache, make_pod()) == {"a": 0, "b": 0}  # asks for nothing: not scored


def test_a_node_without_the_resource_is_scored_by_the_others() -> None:
    cache = make_cache(make_node("a", cpu="2", memory="4Gi"), make_node("b", cpu="2", memory="0"))
    framework = make_framework(only=["NodeResourcesFit", "NodeResourcesBalancedAllocation"])
    assert scores(framework, cache, make_pod(requests={"cpu": "1"})) == {"a": (50 + 95) // 2 + 75, "b": 50 + 100}


def test_preferred_node_affinity() -> None:
    cache = make_cache(make_node("a", labels={"x": "1", "y": "1"}), make_node("b", labels={"y": "1"}), make_node("c"))
    terms = [
        {"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}}
        for key, weight in (("x", 30), ("y", 10))
    ]
    pod = make_pod(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}})
    assert scores(make_framework(only=["NodeAffinity"]), cache, pod) == {"a": 200, "b": 50, "c": 0}  # weight 2


def test_soft_taints() -> None:
    soft = {"key": "k", "value": "v", "effect": "PreferNoSchedule"}
    cache = make_cache(
        make_node("a", taints=[soft, {**soft, "key": "j"}]), make_node("b", taints=[soft]), make_node("c")
    )
    framework = make_framework(only=["TaintToleration"])
    assert scores(framework, cache, make_pod()) == {"a": 0, "b": 150, "c": 300}  # weight 3
    tolerant = make_pod(tolerations=[{"operator": "Exists"}])
    assert len(set(scores(framework, cache, tolerant).values())) == 1


def test_image_locality() -> None:
    image = {"names": ["registry/app:latest", "registry/app@sha256:1"], "sizeBytes": 500 * 1024 * 1024}
    cache = make_cache(make_node("a", images=[image]), make_node("b"))
    pod = make_pod(containers=[{"name": "c", "image": "registry/app"}])
    framework = make_framework(only=["ImageLocality"])
    assert scores(framework, cache, pod) == {"a": 100 * (250 - 23) // (1000 - 23), "b": 0}
    cache.set_node(make_node("a"))
    assert scores(framework, cache, pod) == {"a": 0, "b": 0}


def test_preferred_pod_affinity_and_anti_affinity() -> None:
    """Three in zone 1, one in zone 2, none in zone 3."""
    nodes = [make_node(name, labels={ZONE: zone}) for name, zone in (("a", "1"), ("b", "2"), ("c", "3"))]
    web = [make_pod(labels={"app": "web"}) for _ in range(4)]
    cache = make_cache(*nodes, placed={"a": web[:3], "b": web[3:]})
    framework = make_framework(only=["InterPodAffinity"])
    term = [{"weight": 5, "podAffinityTerm": {"labelSelector": APP, "topologyKey": ZONE}}]
    near = make_pod(affinity={"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term}})
    assert scores(framework, cache, near) == {"a": 200, "b": 66, "c": 0}  # 15, 5, 0; weight 2
    far = make_pod(affinity={"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term}})
    assert scores(framework, cache, far) == {"a": 0, "b": 132, "c": 200}


def test_required_affinity_of_placed_pods_attracts() -> None:
    nodes = [make_node(name, labels={ZONE: zone}) for name, zone in (("a", "1"), ("b", "2"))]
    wants_web = make_pod(
        labels={"app": "web"},
        affinity={
            "podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": APP, "topologyKey": ZONE}]
            }
        },
    )
    cache = make_cache(*nodes, placed={"a": [wants_web]})
    framework = make_framework(only=["InterPodAffinity"])
    assert scores(framework, cache, make_pod(labels={"app": "web"})) == {"a": 200, "b": 0}
    assert scores(framework, cache, make_pod(labels={"app": "db"})) == {"a": 0, "b": 0}


def test_preferred_spread() -> None:
    """Hosts have 2, 1 and 0 pods: weight log(3 + 2); raw scores round(2 w), round(w), 0."""
    web = [make_pod(labels={"app": "web"}) for _ in range(3)]
    cache = make_cache(make_node("a"), make_node("b"), make_node("c"), placed={"a": web[:2], "b": web[2:]})
    rule = {"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": APP}
    pod = make_pod(labels={"app": "web"}, topologySpreadConstraints=[rule])
    found = scores(make_framework(only=["PodTopologySpread"]), cache, pod)
    assert found == {"a": 0, "b": 2 * (100 * (3 - 2) // 3), "c": 200}  # raw 3, 2, 0


def test_default_spread_of_a_service() -> None:
    cache = make_cache(make_node("a"), make_node("b"), placed={"a": [make_pod(labels={"app": "web"})]})
    framework = make_framework(only=["PodTopologySpread"], default_selector=LabelSelector.of_dict(APP))
    found = scores(framework, cache, make_pod(labels={"app": "web"}))
    assert found["b"] > found["a"]
