"""Nodes: silence and taints, zone limits, eviction by taint, pod addresses, pods nobody else deletes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.controllers.harness import PODS, World, names, pod
from tiphys.api.core.v1 import Node, NodeCondition, NodeStatus, Pod, PodSpec, Taint, Toleration
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.controllers.common.context import Options
from tiphys.controllers.nodeipam import BlockSet, NodeIpamController
from tiphys.controllers.nodelifecycle import NodeLifecycleController
from tiphys.controllers.nodelifecycle.zones import ZoneState, rate_of, state_of
from tiphys.controllers.podgc import PodGCController
from tiphys.controllers.tainteviction import TaintEvictionController, time_left

NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/leases"
NOW = datetime(2024, 1, 1, tzinfo=UTC)


def node(name: str, ready: str = "True", **labels: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "lastHeartbeatTime": "2024-01-01T00:00:00Z"}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"conditions": [condition]}}


def lease(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "renewTime": "2024-01-01T00:00:00.000001Z"},
    }


def taints(world: World, name: str) -> set[tuple[str, str]]:
    found = world.api.get(NODES, "", name)
    assert found is not None
    return {(taint["key"].rpartition("/")[2], taint["effect"]) for taint in found["spec"].get("taints", [])}


async def heartbeats(world: World, seconds: float, *alive: str) -> None:
    for _ in range(int(seconds / 5)):
        now = world.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for name in alive:
            world.api.change(LEASES, "kube-node-lease", name, {"spec": {"renewTime": now}})
        await world.pass_time(5, step=1)


async def test_a_silent_node_becomes_unknown_after_its_grace_and_ready_again_when_heard() -> None:
    world = World()
    for name in ("n1", "n2", "n3"):
        world.api.put(NODES, node(name))
        world.api.put(LEASES, lease(name))
    world.api.put(PODS, pod("p", conditions=[{"type": "Ready", "status": "True"}]))
    async with world.running(NodeLifecycleController, kubelet=False):
        await heartbeats(world, 35, "n2", "n3")
        assert taints(world, "n1") == set()
        await heartbeats(world, 20, "n2", "n3")
        assert taints(world, "n1") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
        assert taints(world, "n2") == set()
        found = world.api.get(NODES, "", "n1")
        assert found is not None
        ready = found["status"]["conditions"][0]
        assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
        assert ready["message"] == "Kubelet stopped posting node status."
        stranded = world.api.get(PODS, "default", "p")
        assert stranded is not None
        assert stranded["status"]["conditions"][0]["status"] == "False"
        assert ("NodeNotReady", "Node n1 status is now: NodeNotReady") in world.events()
        world.api.change(NODES, "", "n1", {"status": node("n1")["status"]})
        await heartbeats(world, 15, "n1", "n2", "n3")
        assert taints(world, "n1") == set()


async def test_what_a_kubelet_says_of_itself_is_not_an_event_of_the_controller() -> None:
    world = World()
    world.api.put(NODES, node("n1", ready="False"))
    world.api.put(LEASES, lease("n1"))
    async with world.running(NodeLifecycleController, kubelet=False):
        await heartbeats(world, 15, "n1")
    assert "NodeNotReady" not in dict(world.events())


async def test_conditions_and_cordons_are_taints_at_once() -> None:
    world = World()
    world.api.put(NODES, node("n1"))
    async with world.running(NodeLifecycleController, kubelet=False):
        await world.pass_time(1)
        world.api.change(NODES, "", "n1", {"spec": {"unschedulable": True}})
        conditions = [*node("n1")["status"]["conditions"], {"type": "DiskPressure", "status": "True"}]
        world.api.change(NODES, "", "n1", {"status": {"conditions": conditions}})
        await world.pass_time(1)
        assert taints(world, "n1") == {("unschedulable", "NoSchedule"), ("disk-pressure", "NoSchedule")}
        world.api.change(NODES, "", "n1", {"spec": {"unschedulable": None}})
        await world.pass_time(1)
        assert taints(world, "n1") == {("disk-pressure", "NoSchedule")}


@pytest.mark.parametrize("seed", range(3))
async def test_a_dead_node_is_tainted_through_faults(seed: int) -> None:
    world = World(faults=seed)
    for name in ("n1", "n2", "n3"):
        world.api.put(NODES, node(name))
        world.api.put(LEASES, lease(name))
    async with world.running(NodeLifecycleController, kubelet=False):
        await heartbeats(world, 60, "n2", "n3")
        world.faulty.heal()
        await heartbeats(world, 60, "n2", "n3")
    assert taints(world, "n1") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    assert taints(world, "n2") == set()


def typed(name: str, ready: str) -> Node:
    status = NodeStatus(conditions=(NodeCondition(type="Ready", status=ready),))
    return Node(metadata=ObjectMeta(name=name), status=status)


@pytest.mark.parametrize(
    ("up", "down", "state"),
    [
        pytest.param(3, 0, ZoneState.NORMAL, id="all up"),
        pytest.param(1, 1, ZoneState.NORMAL, id="one of two: too few to tell"),
        pytest.param(2, 3, ZoneState.PARTIAL, id="more than 55 %"),
        pytest.param(0, 2, ZoneState.FULL, id="all down"),
    ],
)
def test_the_state_of_a_zone(up: int, down: int, state: ZoneState) -> None:
    assert state_of([True] * up + [False] * down, Options()) is state


def test_a_small_half_dead_zone_is_left_alone_and_so_is_a_whole_dead_cluster() -> None:
    options = Options()
    assert rate_of(ZoneState.PARTIAL, 10, {"a": ZoneState.PARTIAL}, options) == 0.0
    assert rate_of(ZoneState.PARTIAL, 60, {"a": ZoneState.PARTIAL}, options) == 0.01
    assert rate_of(ZoneState.FULL, 3, {"a": ZoneState.FULL, "b": ZoneState.NORMAL}, options) == 0.1
    assert rate_of(ZoneState.FULL, 3, {"a": ZoneState.FULL, "b": ZoneState.FULL}, options) == 0.0


def with_tolerations(*tolerations: Toleration) -> Pod:
    return Pod(spec=PodSpec(tolerations=tolerations))


@pytest.mark.parametrize(
    ("tolerations", "left"),
    [
        pytest.param((), 0, id="none"),
        pytest.param((Toleration(operator="Exists"),), None, id="everything for ever"),
        pytest.param((Toleration(key="k", operator="Exists", toleration_seconds=30),), 20, id="thirty seconds"),
        pytest.param((Toleration(key="k", value="w"),), 0, id="another value"),
        pytest.param((Toleration(key="k", value="v", effect="NoSchedule"),), 0, id="another effect"),
        pytest.param(
            (Toleration(key="k", value="v"), Toleration(operator="Exists", toleration_seconds=15)),
            5,
            id="the shortest that matches",
        ),
    ],
)
def test_how_long_a_pod_may_stay(tolerations: tuple[Toleration, ...], left: float | None) -> None:
    taint = Taint(key="k", value="v", effect="NoExecute", time_added=NOW - timedelta(seconds=10))
    found = time_left(with_tolerations(*tolerations), [taint], NOW)
    assert (found.total_seconds() if found is not None else None) == left


async def test_pods_leave_a_tainted_node_when_their_tolerations_end() -> None:
    world = World()
    world.api.put(NODES, node("n1"))
    stays, later, now = pod("stays"), pod("later"), pod("now")
    stays["spec"]["tolerations"] = [{"operator": "Exists"}]
    later["spec"]["tolerations"] = [{"key": "k", "operator": "Exists", "tolerationSeconds": 30}]
    for found in (stays, later, now):
        world.api.put(PODS, found)
    async with world.running(TaintEvictionController):
        await world.pass_time(2)
        added = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        world.api.change(
            NODES, "", "n1", {"spec": {"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": added}]}}
        )
        await world.pass_time(10)
        assert names(world.api.list(PODS)) == ["later", "stays"]
        await world.pass_time(25)
        assert names(world.api.list(PODS)) == ["stays"]
    assert ("TaintManagerEviction", "Marking for deletion Pod default/now") in world.events()


async def test_a_taint_that_goes_in_time_evicts_nobody() -> None:
    world = World()
    world.api.put(NODES, node("n1"))
    guest = pod("guest")
    guest["spec"]["tolerations"] = [{"key": "k", "operator": "Exists", "tolerationSeconds": 30}]
    world.api.put(PODS, guest)
    async with world.running(TaintEvictionController):
        added = world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        world.api.change(
            NODES, "", "n1", {"spec": {"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": added}]}}
        )
        await world.pass_time(10)
        world.api.change(NODES, "", "n1", {"spec": {"taints": []}})
        await world.pass_time(60)
    assert names(world.api.list(PODS)) == ["guest"]
    assert ("TaintManagerEviction", "Cancelling deletion of Pod default/guest") in world.events()


def test_blocks_are_given_once_and_again_when_free() -> None:
    blocks = BlockSet("10.244.0.0/22", 24, excluded="10.244.1.0/24")
    assert [blocks.allocate("a"), blocks.allocate("b"), blocks.allocate("c"), blocks.allocate("d")] == [
        "10.244.0.0/24",
        "10.244.2.0/24",
        "10.244.3.0/24",
        None,
    ]
    blocks.release("10.244.2.0/24", "not its owner")
    assert blocks.allocate("d") is None
    blocks.release("10.244.2.0/24", "b")
    assert blocks.allocate("d") == "10.244.2.0/24"


def test_ipv6_blocks_count_by_their_own_size() -> None:
    blocks = BlockSet("fd00::/56", 64)
    blocks.occupy("fd00::/64", "x")
    assert blocks.allocate("a") == "fd00:0:0:1::/64"


@pytest.mark.parametrize("seed", [None, 1, 2])
async def test_every_node_has_its_own_block_also_after_a_restart(seed: int | None) -> None:
    world = World(faults=seed, options=Options(cluster_cidrs=("10.244.0.0/16",)))
    for i in range(10):
        world.api.put(NODES, node(f"n{i}"))
    async with world.running(NodeIpamController, kubelet=False):
        await world.pass_time(3)
    for i in range(10, 15):
        world.api.put(NODES, node(f"n{i}"))
    async with world.running(NodeIpamController, kubelet=False):
        world.faulty.heal()
        await world.settle()
    blocks = [found["spec"]["podCIDR"] for found in world.api.list(NODES)]
    assert len(set(blocks)) == 15
    assert set(blocks) == {f"10.244.{i}.0/24" for i in range(15)}


async def test_pods_nobody_else_deletes() -> None:
    world = World(options=Options(terminated_pod_gc_threshold=1))
    world.api.put(NODES, node("n1"))
    world.api.put(PODS, pod("runs"))
    world.api.put(PODS, pod("lost", node="gone"))
    waiting = pod("waiting", node="")
    waiting["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    world.api.put(PODS, waiting)
    for i in range(3):
        ended = pod(f"ended{i}", phase="Succeeded")
        ended["metadata"]["creationTimestamp"] = f"2024-01-01T00:00:0{i}Z"
        world.api.put(PODS, ended)
    async with world.running(PodGCController, kubelet=False):
        await world.pass_time(5)
        assert names(world.api.list(PODS)) == ["ended2", "lost", "runs"]
        await world.pass_time(90)
    assert names(world.api.list(PODS)) == ["ended2", "runs"]
