"""PodDisruptionBudgets: how many pods there should be, and how many may go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.client.fakeapi import FakeApi
from tests.unit.controllers.harness import PODS, REPLICA_SETS, World, pod, replica_set
from tiphys.client.transport import Response
from tiphys.controllers.disruption import DisruptionController

BUDGETS = "/apis/policy/v1/poddisruptionbudgets"


def ready(name: str, *owners: dict[str, Any], api_version: str = "apps/v1", kind: str = "ReplicaSet") -> dict[str, Any]:
    made = pod(name, conditions=[{"type": "Ready", "status": "True"}])
    made["metadata"]["ownerReferences"] = [
        {
            "apiVersion": api_version,
            "kind": kind,
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        for owner in owners
    ]
    return made


@pytest.mark.parametrize(
    ("spec", "healthy", "expected", "desired", "allowed"),
    [
        pytest.param({"minAvailable": 2}, 3, 3, 2, 1, id="a number"),
        pytest.param({"minAvailable": "50%"}, 3, 4, 2, 1, id="percent of what the owner wants"),
        pytest.param({"maxUnavailable": 1}, 4, 4, 3, 1, id="at most one missing"),
        pytest.param({"maxUnavailable": 1}, 3, 4, 3, 0, id="one is missing already"),
        pytest.param({"maxUnavailable": "30%"}, 4, 4, 2, 2, id="percent rounds up"),
    ],
)
async def test_a_budget_says_how_many_may_go(
    spec: dict[str, Any], healthy: int, expected: int, desired: int, allowed: int
) -> None:
    world = World()
    owner = world.api.put(REPLICA_SETS, replica_set(replicas=4))
    for i in range(healthy):
        world.api.put(PODS, ready(f"p{i}", owner))
    wanted = {"selector": {"matchLabels": {"app": "a"}}} | spec
    world.api.put(BUDGETS, {"metadata": {"name": "b", "namespace": "default"}, "spec": wanted, "status": {}})
    async with world.running(DisruptionController, kubelet=False):
        await world.settle()
    status = world.api.list(BUDGETS)[0]["status"]
    numbers = (status["expectedPods"], status["desiredHealthy"], status.get("disruptionsAllowed", 0))
    assert numbers == (expected, desired, allowed)
    assert status["currentHealthy"] == healthy
    assert status["conditions"][0]["reason"] == ("SufficientPods" if allowed else "InsufficientPods")


async def test_an_eviction_is_counted_until_it_is_seen_or_too_old() -> None:
    world = World()
    for i in range(3):
        world.api.put(PODS, ready(f"p{i}"))
    evicted = {"p0": "2024-01-01T00:00:00Z"}
    world.api.put(
        BUDGETS,
        {
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "minAvailable": 1},
            "status": {"disruptedPods": evicted},
        },
    )
    async with world.running(DisruptionController, kubelet=False):
        await world.pass_time(5)
        assert world.api.list(BUDGETS)[0]["status"]["disruptionsAllowed"] == 1
        await world.pass_time(130, step=5)
        status = world.api.list(BUDGETS)[0]["status"]
    assert (status["disruptionsAllowed"], status.get("disruptedPods", {})) == (2, {})


class CustomApi(FakeApi):
    """Serves widgets.example.com, with a scale subresource, and gadgets.example.com, without."""

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        answers: dict[str, Any] = {
            "/apis": {"kind": "APIGroupList", "groups": [{"name": "example.com", "versions": [{"version": "v1"}]}]},
            "/apis/example.com/v1": {
                "resources": [
                    {"name": "widgets", "kind": "Widget", "namespaced": True, "verbs": ["get"]},
                    {"name": "widgets/scale", "kind": "Scale", "namespaced": True, "verbs": ["get"]},
                    {"name": "gadgets", "kind": "Gadget", "namespaced": True, "verbs": ["get"]},
                ]
            },
            "/apis/example.com/v1/namespaces/default/widgets/w/scale": {"kind": "Scale", "spec": {"replicas": 4}},
        }
        if target in answers:
            return Response(200, json.dumps(answers[target]).encode())
        return await super().request(method, target, headers, body)


class Custom(World):
    api_type = CustomApi


async def budget_for(kind: str, name: str) -> tuple[dict[str, Any], Custom]:
    """The status of a budget of one unavailable pod over three ready ones of an owner."""
    world = Custom()
    owner = {"metadata": {"name": name, "uid": "u"}}
    for i in range(3):
        world.api.put(PODS, ready(f"p{i}", owner, api_version="example.com/v1", kind=kind))
    spec = {"selector": {"matchLabels": {"app": "a"}}, "maxUnavailable": 2}
    meta = {"name": "b", "namespace": "default", "generation": 1}
    world.api.put(BUDGETS, {"metadata": meta, "spec": spec, "status": {"disruptionsAllowed": 3}})
    async with world.running(DisruptionController, kubelet=False):
        await world.pass_time(10)
    return world.api.list(BUDGETS)[0]["status"], world


async def test_a_custom_owner_is_asked_through_its_scale() -> None:
    status, _ = await budget_for("Widget", "w")
    assert (status["expectedPods"], status["desiredHealthy"], status["disruptionsAllowed"]) == (4, 2, 1)


async def test_an_owner_that_is_gone_counts_for_nothing() -> None:
    status, _ = await budget_for("Widget", "other")
    assert (status.get("expectedPods", 0), status.get("disruptionsAllowed", 0)) == (0, 0)


async def test_an_owner_that_cannot_be_scaled_allows_nothing_and_says_so() -> None:
    status, world = await budget_for("Gadget", "g")
    message = "gadgets.example.com does not implement the scale subresource"
    (condition,) = status["conditions"]
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "SyncFailed", message)
    assert not status.get("disruptionsAllowed")
    said = f"Failed to calculate the number of expected pods: {message}"
    assert ("CalculateExpectedPodCountFailed", said) in world.events()
