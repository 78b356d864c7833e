"""The DaemonSet controller: one pod a fitting node, rolling updates in place and with surge, faults."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.unit.controllers.harness import PODS, World, template
from tiphys.controllers.daemonset import DaemonSetController

DAEMONS = "/apis/apps/v1/daemonsets"
NODES = "/api/v1/nodes"
REVISIONS = "/apis/apps/v1/controllerrevisions"


class Nodes(World):
    """A world whose kubelet puts a pod where its affinity says."""

    def _running(self, pod: dict[str, Any]) -> dict[str, Any]:
        found = super()._running(pod)
        found["spec"]["nodeName"] = where(pod)
        return found


def where(pod: dict[str, Any]) -> str:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def node(name: str, *taints: dict[str, str], **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": list(taints)}, "status": {}}


def daemon(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": template(),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "revisionHistoryLimit": 2,
            **spec,
        },
        "status": {},
    }


def images(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pod in world.api.list(PODS):
        if "deletionTimestamp" not in pod["metadata"]:
            found.setdefault(where(pod), []).append(pod["spec"]["containers"][0]["image"])
    return found


async def test_every_fitting_node_has_one_pod_also_those_that_come_later() -> None:
    world = Nodes()
    taint = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
    unready = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
    for found in (node("n1"), node("n2", unready), node("tainted", taint)):
        world.api.put(NODES, found)
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
        assert images(world) == {"n1": ["img"], "n2": ["img"]}
        world.api.put(NODES, node("n3"))
        world.api.change(NODES, "", "tainted", {"spec": {"taints": []}})
        await world.settle()
        assert set(images(world)) == {"n1", "n2", "n3", "tainted"}
        status = world.api.list(DAEMONS)[0]["status"]
        assert status == {
            "currentNumberScheduled": 4,
            "desiredNumberScheduled": 4,
            "numberReady": 4,
            "observedGeneration": 1,
            "updatedNumberScheduled": 4,
            "numberAvailable": 4,
        }
        world.api.change(NODES, "", "n1", {"spec": {"taints": [{"key": "gone", "effect": "NoExecute"}]}})
        await world.settle()
    assert set(images(world)) == {"n2", "n3", "tainted"}


async def test_node_selectors_choose() -> None:
    world = Nodes()
    world.api.put(NODES, node("n1", disk="ssd"))
    world.api.put(NODES, node("n2"))
    chosen = template()
    chosen["spec"]["nodeSelector"] = {"disk": "ssd"}
    world.api.put(DAEMONS, daemon(template=chosen))
    async with world.running(DaemonSetController):
        await world.settle()
        assert set(images(world)) == {"n1"}
        world.api.change(NODES, "", "n1", {"metadata": {"labels": {"disk": "hdd"}}})
        await world.settle()
    assert images(world) == {}


async def test_a_rolling_update_takes_one_node_after_the_other() -> None:
    world = Nodes()
    for i in range(4):
        world.api.put(NODES, node(f"n{i}"))
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
        world.api.change(DAEMONS, "default", "d", {"spec": {"template": template("new")}})
        for _ in range(120):
            await world.clock.advance(0.25)
            ready = [pod for pod in world.api.list(PODS) if pod.get("status", {}).get("phase") == "Running"]
            assert len([pod for pod in ready if "deletionTimestamp" not in pod["metadata"]]) >= 3
        await world.settle()
    assert images(world) == {f"n{i}": ["new"] for i in range(4)}
    assert sorted(found["revision"] for found in world.api.list(REVISIONS)) == [1, 2]


async def test_with_surge_the_new_pod_comes_before_the_old_one_goes() -> None:
    world = Nodes()
    for i in range(3):
        world.api.put(NODES, node(f"n{i}"))
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    world.api.put(DAEMONS, daemon(updateStrategy=strategy))
    async with world.running(DaemonSetController):
        await world.settle()
        world.api.change(DAEMONS, "default", "d", {"spec": {"template": template("new")}})
        for _ in range(120):
            await world.clock.advance(0.25)
            serving = Counter(
                where(pod)
                for pod in world.api.list(PODS)
                if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
            )
            assert set(serving) == {"n0", "n1", "n2"}
            assert len(world.api.list(PODS)) <= 6
        await world.settle()
    assert images(world) == {f"n{i}": ["new"] for i in range(3)}


async def test_a_failed_pod_is_replaced() -> None:
    world = Nodes()
    world.api.put(NODES, node("n1"))
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
        name = world.api.list(PODS)[0]["metadata"]["name"]
        world.api.change(PODS, "default", name, {"status": {"phase": "Failed"}})
        await world.settle()
    (pod,) = world.api.list(PODS)
    assert pod["metadata"]["name"] != name
    text = f"Found failed daemon pod default/{name} on node n1, will try to kill it"
    assert ("FailedDaemonPod", text) in world.events()


@pytest.mark.parametrize("seed", range(4))
async def test_every_node_ends_with_one_new_pod_through_faults(seed: int) -> None:
    world = Nodes(faults=seed)
    for i in range(6):
        world.api.put(NODES, node(f"n{i}"))
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.pass_time(20)
        world.api.change(DAEMONS, "default", "d", {"spec": {"template": template("new")}})
        await world.pass_time(10)
    async with world.running(DaemonSetController):
        await world.pass_time(20)
        world.faulty.heal()
        await world.settle(seconds=400, step=2)
    assert images(world) == {f"n{i}": ["new"] for i in range(6)}


async def test_a_pod_that_lost_its_owner_is_adopted_again() -> None:
    world = Nodes()
    world.api.put(NODES, node("n1"))
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
        (pod,) = world.api.list(PODS)
        world.api.change(PODS, "default", pod["metadata"]["name"], {"metadata": {"ownerReferences": None}})
        await world.settle()
    (pod,) = world.api.list(PODS)
    assert [owner["name"] for owner in pod["metadata"]["ownerReferences"]] == ["d"]


async def test_a_pod_without_owner_that_matches_no_longer_is_replaced() -> None:
    world = Nodes()
    world.api.put(NODES, node("n1"))
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
        (pod,) = world.api.list(PODS)
        stranger = {"metadata": {"ownerReferences": None, "labels": {"app": "other"}}}
        world.api.change(PODS, "default", pod["metadata"]["name"], stranger)
        await world.settle()
    assert images(world) == {"n1": ["img", "img"]}


async def test_a_revision_is_written_with_its_keys_in_order() -> None:
    world = Nodes()
    world.api.put(DAEMONS, daemon())
    async with world.running(DaemonSetController):
        await world.settle()
    (revision,) = world.api.list(REVISIONS)
    (container,) = revision["data"]["spec"]["template"]["spec"]["containers"]
    for part in (revision["data"]["spec"]["template"], revision["data"]["spec"]["template"]["spec"], container):
        assert list(part) == sorted(part)
