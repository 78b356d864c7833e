"""What is counted and timed of pods: their starts, their workers' work, and how many there are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests.unit.kubelet.builders import START, container, make_pod, make_runtime
from tests.unit.kubelet.exposed import Moved, samples
from tests.unit.kubelet.manager_alone import ManagerAlone
from tiphys.base.clock import FakeClock
from tiphys.kubelet.config import KubeletConfiguration
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import CONFIG_SOURCE, PodUID
from tiphys.kubelet.pods import starts
from tiphys.kubelet.pods.durations import WorkerTimes, all_started, start_times
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.worker import Phase
from tiphys.kubelet.server.podcounts import PodCounts
from tiphys.machinery.time import format_time

CREATED = {"creationTimestamp": format_time(START)}
STATIC = {"annotations": {CONFIG_SOURCE: "file"}}
NOTHING = RuntimePod(uid=PodUID("u1"))


def running(*names: str, **more: Any) -> Any:
    """A pod with these containers, of which the API says that all run."""
    statuses = [
        {
            "name": name,
            "state": {"running": {"startedAt": format_time(START)}},
            "image": "i",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
        }
        for name in names
    ]
    return make_pod(*names, metadata=CREATED, status={"phase": "Running", "containerStatuses": statuses}, **more)


def worker(of: str) -> str:
    return f'kubelet_pod_worker_duration_seconds_sum{{operation_type="{of}"}}'


async def test_a_worker_is_timed_from_being_asked_to_being_done() -> None:
    clock = FakeClock(START)
    times = WorkerTimes(make_pod(), clock)
    moved = Moved()
    await clock.advance(0.5)
    times.begin()
    for _ in range(3):  # steps of one sync
        await clock.advance(1.0)
        times.begin()
    times.asked()
    times.end(ending=False)
    assert moved.by("kubelet_pod_worker_start_duration_seconds_sum") == 0.5
    assert moved.by(worker("create")) == 3
    for asked, ending, kind in ((False, False, "sync"), (True, False, "update"), (True, True, "kill")):
        if asked:
            times.asked()
        times.begin()
        await clock.advance(2.0)
        times.end(ending=ending)
        assert moved.by(worker(kind)) == 2
    times.end(ending=False)  # nothing was begun
    assert moved.by("kubelet_pod_worker_start_duration_seconds_count") == 1
    assert moved.by(worker("create")) == 3


@pytest.mark.parametrize(
    ("status", "phases", "counted"),
    [
        ({}, ["Pending", "Pending", "Running", "Running"], 1),
        ({}, ["Pending", "Succeeded"], 0),
        ({}, ["Running"], 0),
        ({"startTime": format_time(START)}, ["Pending", "Running"], 0),
    ],
    ids=["starts", "ends at once", "ran before", "an earlier kubelet's"],
)
async def test_a_start_ends_with_the_first_running(status: dict[str, Any], phases: list[str], counted: int) -> None:
    clock = FakeClock(START)
    times = WorkerTimes(make_pod(status=status), clock)
    moved = Moved()
    await clock.advance(3.0)
    for phase in phases:
        times.phase(phase)
    assert moved.by("kubelet_pod_start_duration_seconds_count") == counted
    assert moved.by("kubelet_pod_start_duration_seconds_sum") == 3 * counted
    assert moved.by('kubelet_pod_start_duration_seconds_bucket{le="2"}') == 0


async def test_the_indicator_leaves_out_pulls_and_init_containers() -> None:
    clock = FakeClock(START)
    pod = running("app", "side", init=("prepare", {"name": "proxy", "restartPolicy": "Always"}))
    times = WorkerTimes(make_pod("app", "side", metadata=CREATED), clock)
    ended = container(pod, "prepare", "exited")
    runtime = make_runtime(pod, ended, container(pod, "proxy", "exited"), container(pod, "app"))
    moved = Moved()
    await clock.advance(10.0)
    times.observed(make_pod("app", "side"), runtime, 4.0)
    assert moved.by("kubelet_pod_start_total_duration_seconds_count") == 0
    times.observed(pod, runtime, 4.0)
    times.observed(pod, runtime, 4.0)
    assert moved.by("kubelet_pod_start_total_duration_seconds_sum") == 10
    assert moved.by("kubelet_pod_start_sli_duration_seconds_sum") == 10 - 4 - 1
    assert moved.by("kubelet_pod_start_sli_duration_seconds_count") == 1
    assert start_times(pod, runtime, 0.0, START + timedelta(seconds=2)) == (2.0, 1.0)


@pytest.mark.parametrize(
    "first",
    [make_pod(metadata=STATIC), make_pod(status={"startTime": format_time(START)})],
    ids=["static", "an earlier kubelet's"],
)
def test_whose_start_is_not_ours_to_time(first: Any) -> None:
    moved = Moved()
    times = WorkerTimes(first, FakeClock(START))
    times.observed(running("app"), NOTHING, 0.0)
    assert moved.by("kubelet_pod_start_sli_duration_seconds_count") == 0


def test_a_pod_has_started_when_all_its_containers_have() -> None:
    assert all_started(running("a", "b"))
    assert not all_started(make_pod("a"))
    pod = running("a", "b")
    waiting = msgspec.structs.replace(pod.status, container_statuses=pod.status.container_statuses[:1])
    assert not all_started(msgspec.structs.replace(pod, status=waiting))


def test_what_never_happened_is_zero() -> None:
    before = samples()
    starts.begin_counts()
    found = samples()
    for name in ("kubelet_started_pods_errors_total", 'kubelet_restarted_pods_total{static=""}'):
        assert found[name] == before.get(name, 0)


def test_starts_and_failures_are_counted_by_kind_and_reason() -> None:
    moved = Moved()
    pod = make_pod("app", init=("prepare",), hostUsers=False)
    starts.count_start(pod)
    starts.count_failed_start(pod)
    starts.count_container_start(pod, "prepare")
    starts.count_container_start(pod, "app")
    starts.count_failed_container_start(pod, "app", "ErrImagePull")
    assert moved.by("kubelet_started_pods_total") == 1
    assert moved.by("kubelet_started_pods_errors_total") == 1
    assert moved.by('kubelet_started_containers_total{container_type="init_container"}') == 1
    assert moved.by('kubelet_started_containers_total{container_type="container"}') == 1
    failed = 'kubelet_started_containers_errors_total{code="ErrImagePull",container_type="container"}'
    assert moved.by(failed) == 1
    assert moved.by("kubelet_started_user_namespaced_pods_total") == 1
    assert moved.by("kubelet_started_user_namespaced_pods_errors_total") == 2


async def test_a_static_pod_that_was_put_back_is_restarted() -> None:
    node = ManagerAlone()
    pod, moved = make_pod(metadata=STATIC), Moved()
    node.manager.add(pod)
    first = node.manager.workers[PodUID("u1")]
    node.manager.remove(PodUID("u1"))
    node.manager.add(pod)
    assert node.manager.workers[PodUID("u1")] is first  # it has to end before
    first.phase = Phase.GONE
    await node.work[0]()
    assert node.manager.workers[PodUID("u1")] is not first
    assert moved.by('kubelet_restarted_pods_total{static="true"}') == 1


@pytest.mark.parametrize("resists", [False, True], ids=["cleaned", "left"])
async def test_orphans_of_the_last_look_are_counted(tmp_path: Path, resists: bool) -> None:
    async def nothing(*_: Any) -> RuntimePod:
        return NOTHING

    async def tear_down(uid: PodUID) -> None:
        if resists:
            raise OSError("busy")

    services: Any = SimpleNamespace(
        clock=FakeClock(START),
        config=KubeletConfiguration(),
        paths=(paths := Paths(tmp_path / "kubelet", tmp_path / "logs")),
        cgroups=SimpleNamespace(pods=set, remove_pod=lambda uid: None),
        runtime=SimpleNamespace(pod=nothing),
        volumes=SimpleNamespace(tear_down=tear_down),
    )
    work: list[Callable[[], Awaitable[None]]] = []
    manager = PodManager(services, lambda one, **_: cast("Any", work.append(one)))
    paths.volumes(PodUID("u1")).mkdir(parents=True)
    paths.pod(PodUID("without")).mkdir(parents=True)
    await manager.clean_orphans(set())
    for one in work:
        await one()
    found = samples()
    assert found["kubelet_orphan_pod_cleaned_volumes"] == (0 if resists else 1)
    assert found["kubelet_orphan_pod_cleaned_volumes_errors"] == (2 if resists else 0)


def test_pods_are_counted_when_somebody_asks() -> None:
    node = ManagerAlone()
    removers = PodCounts("node-1", node.manager).expose()
    port = {"name": "app", "ports": [{"containerPort": 80, "hostPort": 80}]}
    node.manager.add(make_pod("app", "side", metadata={"name": "a", "uid": "a"}))
    node.manager.add(make_pod("app", "side", metadata={"name": "b", "uid": "b"}))
    node.manager.add(make_pod(port, metadata={"name": "s", "uid": "s", **STATIC}))
    node.manager.add(make_pod(port, metadata={"name": "refused", "uid": "refused", **STATIC}))
    workers = node.manager.workers
    a, b = workers[PodUID("a")], workers[PodUID("b")]
    a.runtime = make_runtime(a.pod, container(a.pod, "app"), container(a.pod, "side", "exited"))
    b.runtime = make_runtime(b.pod, container(b.pod, "app", "exited"), ready=False)
    b.remove()
    found = samples()
    assert found['kubelet_node_name{node="node-1"}'] == 1
    assert found["kubelet_running_pods"] == 1
    assert found['kubelet_running_containers{container_state="running"}'] == 1
    assert found['kubelet_running_containers{container_state="exited"}'] == 2
    assert (found['kubelet_desired_pods{static=""}'], found['kubelet_desired_pods{static="true"}']) == (1, 2)
    assert (found['kubelet_active_pods{static=""}'], found['kubelet_active_pods{static="true"}']) == (2, 1)
    assert found["kubelet_mirror_pods"] == 1
    for remove in removers:
        remove()
    assert "kubelet_running_pods" not in samples()
