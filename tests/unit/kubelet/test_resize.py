"""In-place resize: what is granted, what waits and why, and what is changed on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from tests.unit.kubelet.builders import container, make_pod, make_runtime
from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.clock import FakeClock
from tiphys.kubelet.cgroups.tree import Limits
from tiphys.kubelet.config import KubeletConfiguration
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.pods.services import NodeFacts, PodServices
from tiphys.kubelet.resize.allocation import allocation_of, apply, changed, differs, recovered
from tiphys.kubelet.resize.feasibility import Pending, judge, retry_order
from tiphys.kubelet.resize.plan import changes, widest
from tiphys.kubelet.resize.pod_resize import PodResize

MIB = 1 << 20
ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "pods": "10"}


def app(cpu: str, memory: str, name: str = "app", **more: Any) -> dict[str, Any]:
    """A container with equal requests and limits."""
    amounts = {"cpu": cpu, "memory": memory}
    return {"name": name, "resources": {"requests": amounts, "limits": amounts}, **more}


def of(pod: Pod, name: str = "app") -> Mapping[str, str]:
    resources = next(one for one in pod.spec.containers if one.name == name).resources
    assert resources is not None
    return resources.limits


# ---- what was granted


def test_the_pod_on_the_node_has_what_it_was_granted() -> None:
    before, after = make_pod(app("100m", "64Mi")), make_pod(app("200m", "128Mi"), metadata={"generation": 2})
    granted = apply(after, allocation_of(before))
    assert of(granted) == {"cpu": "100m", "memory": "64Mi"}
    assert granted.metadata.generation == 2
    assert apply(after, allocation_of(after)) is after


def test_amounts_written_otherwise_are_the_same() -> None:
    pod = make_pod(app("1", "1Gi"))
    assert not differs(pod, allocation_of(make_pod(app("1000m", "1024Mi"))))


def test_other_resources_stay_as_they_are_asked_for() -> None:
    asked = make_pod({"name": "app", "resources": {"limits": {"cpu": "2", "example.com/gpu": "1"}}})
    granted = apply(asked, allocation_of(make_pod({"name": "app", "resources": {"limits": {"cpu": "1"}}})))
    assert of(granted) == {"cpu": "1", "example.com/gpu": "1"}


def test_a_restarted_kubelet_knows_from_the_status_what_is_in_force() -> None:
    running = {"name": "app", "containerID": "x://1", "resources": app("100m", "64Mi")["resources"]}
    pod = make_pod(app("200m", "64Mi"), app("1", "1Mi", "new"), status={"containerStatuses": [running]})
    granted = apply(pod, recovered(pod))
    assert (of(granted)["cpu"], of(granted, "new")["cpu"]) == ("100m", "1")


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        (app("1", "1Mi"), app("1", "1Mi"), set()),
        (app("1", "1Mi"), app("2", "1Mi"), {"cpu"}),
        (app("1", "1Mi"), app("2", "2Mi"), {"cpu", "memory"}),
        ({"name": "app", "resources": {"requests": {"cpu": "1"}}}, app("1", "1Mi"), {"cpu", "memory"}),
    ],
    ids=["nothing", "cpu", "both", "limits added"],
)
def test_what_changes(a: dict[str, Any], b: dict[str, Any], names: set[str]) -> None:
    first, second = make_pod(a).spec.containers[0], make_pod(b).spec.containers[0]
    assert changed(first.resources, second.resources) == names


# ---- whether there is room


@pytest.mark.parametrize(
    ("asked", "others", "pending"),
    [
        (app("2", "1Gi"), [], None),
        (
            app("3", "1Mi"),
            [],
            Pending("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"),
        ),
        (
            app("1", "2Gi"),
            [],
            Pending(
                "Infeasible", f"Node didn't have enough capacity: memory, requested: {2 << 30}, capacity: {1 << 30}"
            ),
        ),
        (
            app("1500m", "1Mi"),
            [app("1", "1Mi")],
            Pending("Deferred", "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"),
        ),
    ],
    ids=["fits", "never, cpu", "never, memory", "not now"],
)
def test_whether_the_node_has_room(
    asked: dict[str, Any], others: list[dict[str, Any]], pending: Pending | None
) -> None:
    assert judge(make_pod(asked), [make_pod(other) for other in others], ALLOCATABLE) == pending


def test_static_pods_are_not_resized() -> None:
    pod = make_pod(app("1", "1Mi"), metadata={"annotations": {"kubernetes.io/config.source": "file"}})
    assert judge(pod, [], ALLOCATABLE) == Pending("Infeasible", "In-place resize of static-pods is not supported")


def test_the_most_important_are_tried_first() -> None:
    waiting = {
        "late": (make_pod(app("1", "1Mi")), 2.0),
        "early": (make_pod(app("1", "1Mi")), 1.0),
        "burstable": (make_pod({"name": "app", "resources": {"requests": {"cpu": "1"}}}), 0.0),
        "important": (make_pod({"name": "app", "resources": {"requests": {"cpu": "1"}}}, priority=5), 3.0),
    }
    assert sorted(waiting, key=lambda name: retry_order(*waiting[name])) == ["important", "early", "late", "burstable"]


# ---- what is to be done

RESTART_FOR_MEMORY = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]


@pytest.mark.parametrize(
    ("wanted", "state", "restart"),
    [
        (app("1", "1Mi", resizePolicy=RESTART_FOR_MEMORY), "running", None),
        (app("2", "1Mi", resizePolicy=RESTART_FOR_MEMORY), "running", False),
        (app("1", "2Mi", resizePolicy=RESTART_FOR_MEMORY), "running", True),
        (app("1", "2Mi"), "running", False),
        (app("1", "2Mi"), "exited", None),
    ],
    ids=["nothing", "cpu", "memory, by restart", "memory", "not running"],
)
def test_how_a_container_gets_what_it_was_granted(wanted: dict[str, Any], state: str, restart: bool | None) -> None:
    pod = make_pod(wanted)
    before = allocation_of(make_pod(app("1", "1Mi"))).containers
    found = list(changes(pod, make_runtime(pod, container(pod, "app", state)), before))
    assert [change.restart for change in found] == ([] if restart is None else [restart])


def test_the_pods_cgroup_is_wide_enough_for_before_and_after() -> None:
    a = Limits(cpu_shares=10, cpu_quota=5000, memory=100)
    b = Limits(cpu_shares=2, cpu_quota=9000, memory=None)
    assert widest(a, b) == Limits(cpu_shares=10, cpu_quota=9000, memory=-1)


# ---- the whole way


class _Recorder:
    """The parts of a node that a resize works with; `calls` is what was done to containers and cgroups, in order."""

    unified = False

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.config = KubeletConfiguration()
        self.node = NodeFacts(allocatable=ALLOCATABLE, memory_bytes=1 << 30)
        self.events: list[tuple[str, str]] = []
        self.calls: list[tuple[str, int]] = []
        self.beside: list[Pod] = []
        self.usage = 0
        self.broken = False
        self.owned = ""  # why containers cannot be resized
        self.runtime = self.cgroups = self.room = self.containers = self

    def event(self, pod: Pod, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def others(self, uid: PodUID) -> list[Pod]:
        return self.beside

    def changed(self) -> None:
        pass

    def unchangeable(self, pod: Pod) -> str:
        return self.owned

    def resize_pod(self, pod: Pod, limits: Limits) -> None:
        self.calls.append(("pod", limits.memory or 0))

    async def update_resources(self, container_id: str, linux: cri.LinuxContainerResources) -> None:
        if self.broken:
            raise CRIError("Unknown", "no")
        self.calls.append((container_id, linux.memory_limit_in_bytes))

    async def update_sandbox_resources(self, sandbox_id: str, linux: cri.LinuxContainerResources) -> None:
        self.calls.append(("sandbox", linux.memory_limit_in_bytes))

    async def container_stats(self) -> list[cri.ContainerStats]:
        stats = cri.ContainerStats(attributes=cri.ContainerAttributes(id="c-app-0"))
        stats.memory.working_set_bytes.value = self.usage
        return [stats]


def started(before: dict[str, Any]) -> tuple[_Recorder, PodResize, RuntimePod]:
    """A pod that runs with `before`."""
    node, pod = _Recorder(), make_pod(before)
    resize = PodResize(cast(PodServices, node), pod)
    resize.started(pod, "app")
    return node, resize, make_runtime(pod, container(pod, "app"))


def shown(resize: PodResize) -> list[tuple[str, str, str, int | None]]:
    return [(one.type, one.reason, one.message, one.observed_generation) for one in resize.conditions()]


async def test_a_pod_grows_from_the_outside_in() -> None:
    node, resize, runtime = started(app("1", "64Mi"))
    resize.seen(make_pod(app("1", "128Mi"), metadata={"generation": 2}))
    pod = resize.consider()
    assert shown(resize) == [("PodResizeInProgress", "", "", 2)]
    assert await resize.apply(pod, runtime)
    assert node.calls == [("pod", 128 * MIB), ("c-app-0", 128 * MIB), ("pod", 128 * MIB), ("sandbox", 128 * MIB)]
    assert shown(resize) == []
    assert [reason for reason, _ in node.events] == ["ResizeStarted", "ResizeCompleted"]
    details = node.events[1][1].removeprefix("Pod resize completed: ")
    assert json.loads(details) == {
        "containers": [{"name": "app", "resources": app("1", "128Mi")["resources"]}],
        "generation": 2,
    }
    assert not await resize.apply(pod, runtime)


async def test_a_pod_shrinks_from_the_inside_out() -> None:
    node, resize, runtime = started(app("1", "128Mi"))
    resize.seen(make_pod(app("1", "64Mi"), metadata={"generation": 2}))
    await resize.apply(resize.consider(), runtime)
    assert node.calls[:3] == [("pod", 128 * MIB), ("c-app-0", 64 * MIB), ("pod", 64 * MIB)]


async def test_memory_in_use_is_not_taken_away() -> None:
    node, resize, runtime = started(app("1", "128Mi"))
    node.usage = 100 * MIB
    resize.seen(make_pod(app("1", "64Mi"), metadata={"generation": 2}))
    pod = resize.consider()
    await resize.apply(pod, runtime)
    error = f'attempting to set container "app" memory limit ({64 * MIB}) below current usage ({100 * MIB})'
    assert shown(resize) == [("PodResizeInProgress", "Error", error, 2)]
    assert node.calls == []
    assert not await resize.apply(pod, runtime)  # not before its time
    node.usage = 0
    await node.clock.advance(10)
    await resize.apply(pod, runtime)
    assert shown(resize) == []
    assert [reason for reason, _ in node.events] == ["ResizeStarted", "ResizeError", "ResizeCompleted"]


async def test_a_resize_waits_for_room_and_may_be_taken_back() -> None:
    node, resize, _ = started(app("1", "64Mi"))
    node.beside = [make_pod(app("1", "64Mi"))]
    resize.seen(make_pod(app("1500m", "64Mi"), metadata={"generation": 2}))
    assert of(resize.consider())["cpu"] == "1"
    message = "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
    assert shown(resize) == [("PodResizePending", "Deferred", message, 2)]
    resize.consider()
    assert [reason for reason, _ in node.events] == ["ResizeDeferred"]
    resize.seen(make_pod(app("1", "64Mi"), metadata={"generation": 3}))
    resize.consider()
    assert shown(resize) == []
    resize.seen(make_pod(app("1500m", "64Mi"), metadata={"generation": 4}))
    node.beside = []
    assert of(resize.consider())["cpu"] == "1500m"


async def test_a_container_that_wants_a_restart_is_left_to_it() -> None:
    node, resize, runtime = started(app("1", "64Mi", resizePolicy=RESTART_FOR_MEMORY))
    pod = make_pod(app("1", "128Mi", resizePolicy=RESTART_FOR_MEMORY), metadata={"generation": 2})
    resize.seen(pod)
    assert resize.restarts(pod, runtime) == frozenset()  # not granted yet
    pod = resize.consider()
    await resize.apply(pod, runtime)
    assert resize.restarts(pod, runtime) == {"c-app-0"}
    assert [name for name, _ in node.calls] == ["pod"]
    resize.started(pod, "app")
    await resize.apply(pod, make_runtime(pod, container(pod, "app", restart_count=1)))
    assert [name for name, _ in node.calls] == ["pod", "pod", "sandbox"]
    assert shown(resize) == []


async def test_a_container_without_limits_follows_those_of_its_pod() -> None:
    level = [{"requests": {"memory": amount}, "limits": {"memory": amount}} for amount in ("64Mi", "128Mi")]
    node = _Recorder()
    resize = PodResize(cast(PodServices, node), make_pod("app", resources=level[0]))
    pod = make_pod("app", resources=level[0])
    resize.started(pod, "app")
    resize.seen(make_pod("app", resources=level[1], metadata={"generation": 2}))
    await resize.apply(resize.consider(), make_runtime(pod, container(pod, "app")))
    assert ("c-app-0", 128 * MIB) in node.calls
    assert resize.pod_in_force is not None and resize.pod_in_force.limits == {"memory": "128Mi"}


async def test_a_pod_stays_as_wide_as_it_was_made_until_its_containers_fit() -> None:
    node, resize, runtime = started(app("1", "64Mi"))
    node.broken = True  # what was widened for a resize that did not come about is still there for the next
    resize.seen(make_pod(app("1", "256Mi"), metadata={"generation": 2}))
    await resize.apply(resize.consider(), runtime)
    assert shown(resize) == [("PodResizeInProgress", "Error", "rpc error: code = Unknown desc = no", 2)]
    node.broken = False
    resize.seen(make_pod(app("1", "128Mi"), metadata={"generation": 3}))
    await resize.apply(resize.consider(), runtime)
    assert [memory >> 20 for name, memory in node.calls if name == "pod"] == [256, 256, 128]
