"""What a pod asks for, by containers of every kind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.scheduler.builders import make_pod
from tiphys.scheduler.podinfo import NONZERO_CPU, NONZERO_MEMORY, HostPort


def container(cpu: str, memory: str = "", restart: str | None = None) -> dict[str, Any]:
    requests = {"cpu": cpu} | ({"memory": memory} if memory else {})
    return {"name": "c", "image": "i", "resources": {"requests": requests}, "restartPolicy": restart}


@pytest.mark.parametrize(
    ("containers", "spec", "expected"),
    [
        ([container("100m", "1Gi"), container("1", "1Gi")], {}, {"cpu": 1100, "memory": 2 << 30}),
        ([container("100m")], {"initContainers": [container("2"), container("1")]}, {"cpu": 2000}),
        ([container("1")], {"initContainers": [container("300m", restart="Always")]}, {"cpu": 1300}),
        # The init container runs beside the sidecar that was started before it.
        (
            [container("1")],
            {"initContainers": [container("300m", restart="Always"), container("900m")]},
            {"cpu": 1300},
        ),
        (
            [container("100m")],
            {"initContainers": [container("300m", restart="Always"), container("900m")]},
            {"cpu": 1200},
        ),
        ([container("1")], {"overhead": {"cpu": "50m", "memory": "10Mi"}}, {"cpu": 1050, "memory": 10 << 20}),
        ([container("1", "1Gi")], {"resources": {"requests": {"cpu": "3"}}}, {"cpu": 3000, "memory": 1 << 30}),
        ([container("0")], {}, {}),
    ],
    ids=["sum", "init", "sidecar", "beside", "peak", "overhead", "pod-level", "zero"],
)
def test_requests(containers: list[dict[str, Any]], spec: dict[str, Any], expected: dict[str, float]) -> None:
    assert make_pod(containers=containers, **spec).requests == expected


def test_what_asks_for_nothing_counts_a_little_for_scores() -> None:
    assert make_pod().nonzero == (NONZERO_CPU, NONZERO_MEMORY)
    two = make_pod(containers=[container("1"), container("1", "1Gi")])
    assert two.nonzero == (2000, (1 << 30) + NONZERO_MEMORY)


def test_host_ports() -> None:
    ports = [
        {"containerPort": 80},
        {"containerPort": 80, "hostPort": 8080, "hostIP": "0.0.0.0"},
        {"containerPort": 53, "hostPort": 53, "hostIP": "10.0.0.1", "protocol": "UDP"},
    ]
    pod = make_pod(containers=[{"name": "c", "image": "i", "ports": ports}])
    assert pod.ports == (HostPort("", "TCP", 8080), HostPort("10.0.0.1", "UDP", 53))


def test_a_term_without_namespaces_means_the_pods_own() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "zone", "matchLabelKeys": ["version"]}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    pod = make_pod(namespace="shop", labels={"version": "2"}, affinity=affinity)
    (found,) = pod.affinity
    assert found.matches("shop", {}, {"app": "x", "version": "2"})
    assert not found.matches("shop", {}, {"app": "x", "version": "1"})
    assert not found.matches("other", {}, {"app": "x", "version": "2"})


@pytest.mark.parametrize(
    ("granted", "in_force", "conditions", "expected"),
    [
        ({}, {}, [], 2000),
        ({"cpu": "1"}, {"cpu": "1"}, [], 2000),
        ({"cpu": "2"}, {"cpu": "3"}, [], 3000),
        ({"cpu": "1"}, {"cpu": "500m"}, [{"type": "PodResizePending", "reason": "Infeasible"}], 1000),
        ({"cpu": "1"}, {"cpu": "500m"}, [{"type": "PodResizePending", "reason": "Deferred"}], 2000),
    ],
    ids=["nothing known", "growing", "shrinking", "refused", "waiting"],
)
def test_while_a_resize_is_on_its_way_the_most_counts(
    granted: dict[str, str], in_force: dict[str, str], conditions: list[dict[str, str]], expected: int
) -> None:
    status = {"name": "c", "allocatedResources": granted, "resources": {"requests": in_force}}
    pod = make_pod(containers=[container("2")], status={"containerStatuses": [status], "conditions": conditions})
    assert pod.requests == {"cpu": expected}
