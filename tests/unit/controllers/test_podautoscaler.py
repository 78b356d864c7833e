"""The HorizontalPodAutoscaler: what measurements ask for, how fast it is followed, what is said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from tests.unit.client.fakeapi import FakeApi, parse_target, status
from tests.unit.controllers.harness import Json, World, pod
from tiphys.api.autoscaling.v2 import HorizontalPodAutoscalerBehavior
from tiphys.api.core.v1 import Pod
from tiphys.client import Response
from tiphys.controllers.podautoscaler import HorizontalPodAutoscalerController, behavior
from tiphys.controllers.podautoscaler.behavior import History
from tiphys.controllers.podautoscaler.metrics import MetricsError, Sample
from tiphys.controllers.podautoscaler.replicas import (
    Groups,
    Limits,
    Start,
    by_average,
    by_utilization,
    by_value,
    by_value_per_pod,
    group,
    requests,
)

NOW = datetime(2024, 1, 1, 1, tzinfo=UTC)
AUTOSCALERS = "/apis/autoscaling/v2/horizontalpodautoscalers"
DEPLOYMENTS = "/apis/apps/v1/deployments"
PODS = "/api/v1/pods"


def groups(ready: str, unready: str = "", missing: str = "") -> Groups:
    return Groups(frozenset(ready), frozenset(unready), frozenset(missing))


@pytest.mark.parametrize(
    ("current", "target", "values", "sorted_", "replicas"),
    [
        pytest.param(3, 30, {"a": 300, "b": 500, "c": 700}, groups("abc"), 5, id="up"),
        pytest.param(3, 100, {"a": 300, "b": 300, "c": 300}, groups("abc"), 1, id="down"),
        pytest.param(3, 100, {"a": 1010, "b": 1030, "c": 1020}, groups("abc"), 3, id="tolerated"),
        pytest.param(3, 30, {"a": 300, "b": 500, "c": 700}, groups("bc", "a"), 4, id="an unready pod uses nothing yet"),
        pytest.param(4, 100, {"a": 1000, "b": 1900}, groups("ab", "", "cd"), 4, id="up, but not with those missing"),
        pytest.param(
            3, 50, {"a": 100, "b": 100}, groups("ab", "", "c"), 3, id="down, but not if the missing one is busy"
        ),
        pytest.param(2, 30, {"a": 1000, "b": 1000, "x": 1}, groups("ab"), 7, id="of pods that are not known"),
    ],
)
def test_replicas_for_a_utilization(
    current: int, target: int, values: dict[str, int], sorted_: Groups, replicas: int
) -> None:
    requested = dict.fromkeys("abcd", 1000)
    assert by_utilization(current, target, values, sorted_, requested, Limits()).replicas == replicas


def test_without_a_usable_measurement_nothing_is_proposed() -> None:
    with pytest.raises(MetricsError, match="did not receive metrics for targeted pods"):
        by_utilization(1, 50, {"a": 1}, groups("", "a"), {"a": 1}, Limits())


@pytest.mark.parametrize(
    ("values", "sorted_", "replicas"),
    [
        pytest.param({"a": 20000, "b": 20000}, groups("ab"), 4, id="up"),
        pytest.param({"a": 1000, "b": 1000}, groups("ab"), 1, id="down"),
        pytest.param({"a": 1000}, groups("a", "", "b"), 2, id="one missing"),
    ],
)
def test_replicas_for_an_average(values: dict[str, int], sorted_: Groups, replicas: int) -> None:
    assert by_average(2, 10000, values, sorted_, Limits()).replicas == replicas


@pytest.mark.parametrize(
    ("current", "usage", "whole", "each"),
    [(2, 20000, 4, 2), (2, 10500, 2, 2), (0, 15000, 2, 2), (4, 1000, 1, 1)],
    ids=["up", "tolerated", "from nothing", "down"],
)
def test_replicas_for_one_number(current: int, usage: int, whole: int, each: int) -> None:
    assert by_value(current, current, usage, 10000, Limits()) == whole
    assert by_value_per_pod(current, usage, 10000, Limits()) == each


def test_pods_are_sorted_by_what_their_measurement_is_worth() -> None:
    def one(name: str, started: int, ready: int, status_: str = "True", **more: Any) -> Json:
        made = pod(name, startTime=(NOW - timedelta(seconds=started)).isoformat(), **more)
        moment = (NOW - timedelta(seconds=ready)).isoformat()
        made["status"]["conditions"] = [{"type": "Ready", "status": status_, "lastTransitionTime": moment}]
        return made

    pods = [
        one("old", 1000, 900),
        one("fresh", 100, 20),  # measured partly before it was ready
        one("young", 200, 150),
        one("never", 1000, 990, "False"),
        one("lost", 1000, 100, "False"),  # was ready once
        one("pending", 10, 10, phase="Pending"),
        one("failed", 10, 10, phase="Failed"),
        one("unmeasured", 1000, 900),
    ]
    samples = {item["metadata"]["name"]: Sample(1, NOW, timedelta(seconds=30)) for item in pods[:-1]}
    start = Start(cpu_period=timedelta(minutes=5), readiness_delay=timedelta(seconds=30))
    found = group(msgspec.convert(pods, list[Pod]), samples, NOW, start)
    assert found == Groups(
        frozenset({"old", "young", "lost"}), frozenset({"fresh", "never", "pending"}), frozenset({"unmeasured"})
    )


def test_a_container_without_a_request_cannot_be_judged() -> None:
    with pytest.raises(MetricsError, match="missing request for cpu in container c of Pod p"):
        requests(msgspec.convert([pod("p")], list[Pod]), "cpu")


def at(seconds: int) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("rules", "recommended", "wanted", "follows", "reason"),
    [
        pytest.param({}, [(10, 9)], 4, 6, "ScaleDownStabilized", id="highest of five minutes, but not above now"),
        pytest.param({}, [(400, 9)], 4, 4, "ReadyForNewScale", id="long ago"),
        pytest.param({}, [(10, 2)], 8, 8, "ReadyForNewScale", id="up at once"),
        pytest.param(
            {"scaleUp": {"stabilizationWindowSeconds": 60}},
            [(30, 7)],
            9,
            7,
            "ScaleUpStabilized",
            id="lowest of the window",
        ),
        pytest.param(
            {"scaleDown": {"stabilizationWindowSeconds": 0}}, [(1, 9)], 3, 3, "ReadyForNewScale", id="down at once"
        ),
    ],
)
def test_recommendations_are_stabilized(
    rules: Json, recommended: list[tuple[int, int]], wanted: int, follows: int, reason: str
) -> None:
    given = msgspec.convert(rules, HorizontalPodAutoscalerBehavior)
    history = History([(at(seconds), value) for seconds, value in recommended])
    up, down = behavior.rules_of(given, timedelta(minutes=5))
    found, outcome = behavior.stabilize(6, wanted, history, up, down, NOW)
    assert (found, outcome.reason) == (follows, reason)
    assert history.recommendations[-1] == (NOW, wanted)


POLICIES = {
    "scaleUp": {
        "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60},
        ]
    },
    "scaleDown": {"policies": [{"type": "Percent", "value": 25, "periodSeconds": 60}]},
}


@pytest.mark.parametrize(
    ("rules", "current", "wanted", "done", "result", "reason"),
    [
        pytest.param(None, 3, 50, 0, 6, "ScaleUpLimit", id="twice as many by default"),
        pytest.param(None, 1, 50, 0, 4, "ScaleUpLimit", id="or four"),
        pytest.param(None, 15, 50, 0, 20, "TooManyReplicas", id="at most the maximum"),
        pytest.param(None, 15, 1, 0, 2, "TooFewReplicas", id="at least the minimum"),
        pytest.param(None, 5, 6, 0, 6, "DesiredWithinRange", id="free"),
        pytest.param(POLICIES, 10, 20, 0, 15, "ScaleUpLimit", id="the larger policy"),
        pytest.param(POLICIES, 12, 20, 2, 15, "ScaleUpLimit", id="two of them in this period"),
        pytest.param(POLICIES, 8, 2, 0, 6, "ScaleDownLimit", id="a quarter less"),
        pytest.param(POLICIES, 6, 2, -2, 6, "ScaleDownLimit", id="which has been done"),
        pytest.param({"scaleUp": {"selectPolicy": "Disabled"}}, 5, 9, 0, 5, "ScaleUpLimit", id="disabled"),
        pytest.param(
            {"scaleUp": {**POLICIES["scaleUp"], "selectPolicy": "Min"}}, 10, 20, 0, 12, "ScaleUpLimit", id="the smaller"
        ),
    ],
)
def test_scaling_is_limited(rules: Json | None, current: int, wanted: int, done: int, result: int, reason: str) -> None:
    both = None
    if rules is not None:
        both = behavior.rules_of(msgspec.convert(rules, HorizontalPodAutoscalerBehavior), timedelta(minutes=5))
    history = History()
    behavior.record(history, current - done, current, at(30))
    found, outcome = behavior.limit(wanted, current, (2, 20), history, both, NOW)
    assert (found, outcome.reason) == (result, reason)


# Whole rounds


class MetricsApi(FakeApi):
    """With scale subresources and metrics APIs: `usage` by pod for CPU, `values` by path for the others."""

    usage: dict[str, str]
    values: dict[str, Any]

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        path = unquote(urlsplit(target).path)
        where = parse_target(path)
        if path.startswith("/apis/metrics.k8s.io"):
            return self._measured()
        if "metrics.k8s.io" in path:
            found = self.values.get(path)
            return (
                Response(200, json.dumps({"items": found}).encode()) if found else status(404, "NotFound", "no metric")
            )
        key = (where.namespace, where.name)
        if where.subresource == "scale" and key in self.objects[where.collection]:
            if method == "PUT":
                replicas = json.loads(body or b"")["spec"]["replicas"]
                self.change(where.collection, *key, {"spec": {"replicas": replicas}, "status": {"replicas": replicas}})
            obj = self.objects[where.collection][key]
            scale = {"spec": {"replicas": obj["spec"]["replicas"]}, "status": {**obj["status"], "selector": "app=a"}}
            return Response(200, json.dumps({"kind": "Scale", "metadata": {}, **scale}).encode())
        return await super().request(method, target, headers, body)

    def _measured(self) -> Response:
        now = self.clock.now().isoformat()
        items = [
            {
                "metadata": {"name": name},
                "timestamp": now,
                "window": "15s",
                "containers": [{"name": "c", "usage": {"cpu": value}}],
            }
            for name, value in self.usage.items()
        ]
        return Response(200, json.dumps({"items": items}).encode())


class Load(World):
    api_type = MetricsApi
    api: MetricsApi

    def __init__(self, metrics: list[Json] | None = None, *, faults: int | None = None, **spec: Any) -> None:
        super().__init__(faults=faults)
        self.api.usage, self.api.values = {}, {}
        self.api.put(
            DEPLOYMENTS,
            {"metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": 2}, "status": {"replicas": 2}},
        )
        for name in ("a", "b"):
            made = pod(name, startTime="2023-12-31T00:00:00Z")
            made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1"}}
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2023-12-31T00:00:00Z"}
            made["status"]["conditions"] = [ready]
            self.api.put(PODS, made)
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
        cpu = {
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
        }
        spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 10, "metrics": metrics or [cpu], **spec}
        self.api.put(AUTOSCALERS, {"metadata": {"name": "h", "namespace": "default"}, "spec": spec, "status": {}})

    @property
    def replicas(self) -> int:
        found: int = self.api.list(DEPLOYMENTS)[0]["spec"]["replicas"]
        return found

    def conditions(self) -> dict[str, tuple[str, str]]:
        found = self.api.list(AUTOSCALERS)[0]["status"]["conditions"]
        return {one["type"]: (one["status"], one["reason"]) for one in found}


async def test_load_brings_replicas_and_its_end_takes_them_after_five_minutes() -> None:
    world = Load()
    world.api.usage = {"a": "750m", "b": "750m"}
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(2)
        assert world.replicas == 3
        assert world.events() == [
            ("SuccessfulRescale", "New size: 3; reason: cpu resource utilization (percentage of request) above target")
        ]
        assert world.conditions() == {
            "AbleToScale": ("True", "SucceededRescale"),
            "ScalingActive": ("True", "ValidMetricFound"),
            "ScalingLimited": ("False", "DesiredWithinRange"),
        }
        current = world.api.list(AUTOSCALERS)[0]["status"]["currentMetrics"][0]["resource"]["current"]
        assert current == {"averageValue": "750m", "averageUtilization": 75}
        world.api.usage = {"a": "10m", "b": "10m"}
        await world.pass_time(200, step=5)
        assert world.replicas == 3
        assert world.conditions()["AbleToScale"] == ("True", "ScaleDownStabilized")
        await world.pass_time(200, step=5)
    assert world.replicas == 1


SELECTOR = {"matchLabels": {"q": "x"}}
CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default"


@pytest.mark.parametrize(
    ("metric", "path", "values", "replicas"),
    [
        pytest.param(
            {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "10"}}},
            f"{CUSTOM}/pods/*/rps",
            [{"describedObject": {"name": name}, "value": "20"} for name in ("a", "b")],
            4,
            id="pods",
        ),
        pytest.param(
            {
                "type": "Object",
                "object": {
                    "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "i"},
                    "metric": {"name": "hits"},
                    "target": {"value": "100"},
                },
            },
            f"{CUSTOM}/ingresses.networking.k8s.io/i/hits",
            [{"describedObject": {"name": "i"}, "value": "200"}],
            4,
            id="object",
        ),
        pytest.param(
            {
                "type": "External",
                "external": {"metric": {"name": "depth", "selector": SELECTOR}, "target": {"averageValue": "5"}},
            },
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/depth",
            [{"value": "10"}, {"value": "5"}],
            3,
            id="external",
        ),
        pytest.param(
            {
                "type": "ContainerResource",
                "containerResource": {"name": "cpu", "container": "c", "target": {"averageUtilization": 50}},
            },
            "",
            [],
            3,
            id="container",
        ),
    ],
)
async def test_every_kind_of_metric(metric: Json, path: str, values: list[Json], replicas: int) -> None:
    world = Load([metric])
    world.api.usage = {"a": "750m", "b": "750m"}
    world.api.values = {path: values}
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(2)
    assert world.replicas == replicas


async def test_a_metric_that_cannot_be_had_scales_nothing_down_and_is_said() -> None:
    missing = {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "10"}}}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}}
    world = Load([missing, cpu])
    world.api.usage = {"a": "10m", "b": "10m"}
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(2)
        assert world.replicas == 2
        assert world.conditions()["ScalingActive"] == ("False", "FailedGetPodsMetric")
        text = (
            "unable to get metric rps: unable to fetch metrics from custom metrics API: "
            "the server could not find the requested resource (get rps.custom.metrics.k8s.io)"
        )
        first = f"invalid metrics (1 invalid out of 2), first error is: failed to get pods metric value: {text}"
        assert world.events() == [("FailedGetPodsMetric", text), ("FailedComputeMetricsReplicas", first)]
        world.api.usage = {"a": "900m", "b": "900m"}
        await world.pass_time(20)
    assert world.replicas == 4


@pytest.mark.parametrize(
    ("spec", "replicas", "result", "type_", "reason"),
    [
        pytest.param({"maxReplicas": 4}, 9, 4, "AbleToScale", "SucceededRescale", id="too many"),
        pytest.param({"minReplicas": 3}, 1, 3, "AbleToScale", "SucceededRescale", id="too few"),
        pytest.param({}, 0, 0, "ScalingActive", "ScalingDisabled", id="switched off"),
        pytest.param(
            {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}},
            2,
            2,
            "AbleToScale",
            "FailedGetScale",
            id="no target",
        ),
        pytest.param(
            {"scaleTargetRef": {"apiVersion": "no/v1", "kind": "Thing", "name": "x"}},
            2,
            2,
            "AbleToScale",
            "FailedGetScale",
            id="no such kind",
        ),
    ],
)
async def test_without_measuring(spec: Json, replicas: int, result: int, type_: str, reason: str) -> None:
    world = Load(**spec)
    world.api.change(DEPLOYMENTS, "default", "d", {"spec": {"replicas": replicas}})
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(2)
    assert world.replicas == result
    assert world.conditions()[type_][1] == reason


@pytest.mark.parametrize("seed", range(4))
async def test_load_is_followed_through_faults_and_restarts(seed: int) -> None:
    world = Load(faults=seed)
    world.api.usage = {"a": "900m", "b": "900m"}
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(40)
    world.api.usage = {"a": "500m", "b": "500m"}
    async with world.running(HorizontalPodAutoscalerController, kubelet=False):
        await world.pass_time(60)
        world.faulty.heal()
        await world.pass_time(400, step=5)
    # Two pods are measured, whatever is wished for: at the target nothing changes any more.
    assert 2 <= world.replicas <= 10
    assert world.conditions()["ScalingActive"][0] == "True"
