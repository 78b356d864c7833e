"""Admission, node status, eviction, image collection, log rotation, cgroups, logs."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.unit.kubelet.builders import START, make_pod
from tiphys.api.core.v1 import NodeStatus
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.cgroups.tree import CgroupTree, Limits, pod_limits
from tiphys.kubelet.cgroups.v2 import CgroupV2
from tiphys.kubelet.config import ConfigError, KubeletConfiguration
from tiphys.kubelet.eviction.ranking import rank
from tiphys.kubelet.eviction.signals import Observation, Threshold
from tiphys.kubelet.gc.images import removable
from tiphys.kubelet.gc.logs import tidy
from tiphys.kubelet.node.machine import Machine
from tiphys.kubelet.node.status import StatusFacts, allocatable_of, node_status, status_patch
from tiphys.kubelet.pods.admission import admit
from tiphys.kubelet.server.logformat import LogLine, parse_line
from tiphys.kubelet.server.logs import LogOptions, tail_offset
from tiphys.kubelet.sources.static import ManifestError, read_manifest

ROOM = {"cpu": "1", "memory": "1Gi", "pods": "2", "example.com/device": "2"}


def asking(**requests: str) -> dict[str, Any]:
    return {"name": "app", "resources": {"requests": requests}}


@pytest.mark.parametrize(
    ("pod", "active", "reason", "message"),
    [
        (make_pod(asking(cpu="500m")), [make_pod(asking(cpu="500m"))], None, None),
        (
            make_pod(asking(cpu="600m")),
            [make_pod(asking(cpu="500m"))],
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000",
        ),
        (make_pod(asking(memory="2Gi")), [], "OutOfmemory", None),
        (make_pod(), [make_pod(), make_pod()], "OutOfpods", None),
        (make_pod(nodeSelector={"disk": "ssd"}), [], "NodeAffinity", None),
        (
            make_pod({"name": "app", "ports": [{"containerPort": 80, "hostPort": 80}]}),
            [make_pod({"name": "app", "ports": [{"containerPort": 8080, "hostPort": 80}]})],
            "NodePorts",
            None,
        ),
        (make_pod(asking(cpu="2"), priority=2_000_000_000), [], None, None),
        (make_pod(asking(**{"example.com/dongle": "3"})), [], None, None),
        (make_pod(asking(**{"example.com/device": "3"})), [], "OutOfexample.com/device", None),
    ],
    ids=[
        "fits",
        "no cpu",
        "no memory",
        "too many",
        "wrong node",
        "port taken",
        "critical",
        "not counted here",
        "counted here",
    ],
)
def test_admission(pod: Any, active: list[Any], reason: str | None, message: str | None) -> None:
    verdict = admit(pod, active, ROOM, {"kubernetes.io/os": "linux"}, "node-1")
    assert (verdict.reason if verdict else None) == reason
    if message is not None:
        assert verdict is not None
        assert verdict.message == f"Pod was rejected: {message}"


@pytest.mark.parametrize(
    ("operator", "values", "fits"),
    [("In", ["a", "b"], True), ("NotIn", ["a"], False), ("Exists", [], True), ("Gt", ["3"], False)],
)
def test_node_affinity(operator: str, values: list[str], fits: bool) -> None:
    terms = [{"matchExpressions": [{"key": "zone", "operator": operator, "values": values}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    pod = make_pod(affinity={"nodeAffinity": required})
    assert (admit(pod, [], ROOM, {"zone": "a"}, "node-1") is None) == fits


def test_allocatable_leaves_room_for_the_system() -> None:
    capacity = {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "1000Ki", "pods": "110"}
    found = allocatable_of(
        capacity, ({"cpu": "500m"}, {"memory": "24Mi"}), {"memory.available": "100Mi", "nodefs.available": "10%"}
    )
    assert found == {"cpu": "3500m", "memory": "900Mi", "ephemeral-storage": "921600", "pods": "110"}


def reported(capacity: dict[str, str], allocatable: dict[str, str]) -> tuple[NodeStatus, dict[str, Any]]:
    """The status of a node of one CPU whose API object has these amounts, and the patch that reports it."""
    machine = Machine(
        cpus=1,
        memory=2**30,
        disk=2**30,
        swap=0,
        machine_id="m",
        system_uuid="s",
        boot_id="b",
        kernel="6.1",
        os_image="Linux",
        architecture="amd64",
    )
    facts = StatusFacts(
        machine=machine,
        hostname="n",
        ips=("10.0.0.1",),
        port=10250,
        capacity={"cpu": "1"},
        allocatable={"cpu": "900m"},
        runtime=cri.VersionResponse(runtime_name="r", runtime_version="1"),
    )
    old = NodeStatus(capacity=capacity, allocatable=allocatable)
    new = node_status(facts, old, START)
    return new, status_patch(old, new)["status"]


def test_a_resource_that_an_administrator_advertises_is_for_pods() -> None:
    status, patch = reported({"cpu": "1", "example.com/dongle": "4"}, {"cpu": "900m"})
    assert status.capacity == {"cpu": "1", "example.com/dongle": "4"}
    assert status.allocatable == {"cpu": "900m", "example.com/dongle": "4"}
    assert (patch.get("capacity", {}), patch["allocatable"]) == ({}, {"example.com/dongle": "4"})


def test_a_resource_that_an_administrator_took_away_is_no_longer_for_pods() -> None:
    status, patch = reported({"cpu": "2"}, {"cpu": "900m", "example.com/dongle": "4"})
    assert status.allocatable == {"cpu": "900m"}
    assert (patch["capacity"], patch["allocatable"]) == ({"cpu": "1"}, {"example.com/dongle": None})


@pytest.mark.parametrize(
    ("value", "available", "crossed"),
    [("100Mi", 99 * 2**20, True), ("100Mi", 101 * 2**20, False), ("10%", 90, True), ("10%", 110, False)],
)
def test_thresholds(value: str, available: int, crossed: bool) -> None:
    capacity = 1000 if value.endswith("%") else 2**30
    assert Threshold("memory.available", value).crossed(Observation(available, capacity)) == crossed


def test_pods_over_their_requests_go_first_then_by_priority() -> None:
    def pod(name: str, request: str, priority: int) -> Any:
        return make_pod(asking(memory=request), metadata={"name": name}, priority=priority)

    pods = [pod("within", "1Gi", 0), pod("over", "1Mi", 0), pod("important", "1Mi", 10), pod("far over", "1Ki", 0)]
    usage = {"within": 2**20, "over": 2**21, "important": 2**30, "far over": 2**22}
    ranked = rank(pods, lambda pod: usage[pod.metadata.name], "memory")
    assert [item.metadata.name for item in ranked] == ["far over", "over", "important", "within"]


def test_old_unused_images_go_first() -> None:
    images = [cri.Image(id=name) for name in ("used", "young", "old", "older")] + [cri.Image(id="pinned", pinned=True)]
    now = START + timedelta(hours=1)
    seen = {"used": START, "young": now, "old": START, "older": START, "pinned": START}
    last = {"old": START + timedelta(minutes=5), "older": START}
    found = removable(images, {"used"}, last, seen, now, timedelta(minutes=2))
    assert [image.id for image in found] == ["older", "old"]


def test_rotated_logs_are_compressed_and_counted(tmp_path: Path) -> None:
    for name in ("0.log", "0.log.20240101-000001", "0.log.20240101-000002", "0.log.20240101-000003"):
        (tmp_path / name).write_text("x")
    tidy(tmp_path / "0.log", 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0.log",
        "0.log.20240101-000002.gz",
        "0.log.20240101-000003",
    ]


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"name": "app"}, Limits(cpu_shares=2)),
        (
            {"name": "app", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Mi"}}},
            Limits(cpu_shares=1024, cpu_quota=200_000, memory=2**20),
        ),
    ],
    ids=["best effort", "limited"],
)
def test_limits_of_a_pods_cgroup(container: dict[str, Any], expected: Limits) -> None:
    assert pod_limits(make_pod(container)) == expected


def test_the_tree_on_cgroup_v2(tmp_path: Path) -> None:
    """Against a recorded hierarchy: this kernel may have only v1."""
    for path in ("", "root"):
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.controllers").write_text("cpu memory pids\n")
        (tmp_path / path / "cgroup.subtree_control").write_text("")
    driver = CgroupV2(tmp_path)
    tree = CgroupTree(driver, "/root")
    tree.prepare(Limits(memory=5))
    pod = make_pod({"name": "app", "resources": {"requests": {"cpu": "1"}}})
    tree.create_pod(pod)
    assert tree.path_of(pod) == "/root/kubepods/burstable/podu1"
    assert (tmp_path / "root/kubepods/burstable/podu1/cpu.weight").read_text() == "39"
    assert (tmp_path / "root/kubepods/memory.max").read_text() == "5"
    assert tree.pods() == {"u1"}
    assert next(iter(driver.directories(PurePosixPath("/root")))) == tmp_path / "root"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"2024-01-01T00:00:00.1Z stdout F hello\n", LogLine(b"2024-01-01T00:00:00.1Z", b"stdout", b"hello\n")),
        (b"2024-01-01T00:00:00.1Z stderr P half\n", LogLine(b"2024-01-01T00:00:00.1Z", b"stderr", b"half", True)),
        (b"2024-01-01T00:00:00.1Z stdout F \n", LogLine(b"2024-01-01T00:00:00.1Z", b"stdout", b"\n")),
        (b"garbage\n", None),
    ],
    ids=["full", "partial", "empty", "broken"],
)
def test_log_lines(raw: bytes, expected: LogLine | None) -> None:
    assert parse_line(raw) == expected


@pytest.mark.parametrize(("lines", "offset"), [(0, 6), (1, 4), (2, 2), (3, 0), (9, 0)])
def test_the_last_lines_of_a_file(lines: int, offset: int) -> None:
    assert tail_offset(io.BytesIO(b"a\nb\nc\n"), lines) == offset


def test_log_options_are_checked() -> None:
    options = LogOptions.from_query({"sinceSeconds": ["60"], "tailLines": ["5"], "follow": ["true"]}, START)
    assert options == LogOptions(follow=True, tail_lines=5, since=START - timedelta(minutes=1))
    with pytest.raises(ValueError, match="limitBytes"):
        LogOptions.from_query({"limitBytes": ["0"]}, START)


def test_a_static_manifest_becomes_a_pod_of_this_node() -> None:
    text = b"apiVersion: v1\nkind: Pod\nmetadata: {name: dns}\nspec: {containers: [{name: a, image: 'x:1'}]}\n"
    pod = read_manifest(text, "node-1")
    assert (pod.metadata.name, pod.metadata.namespace, pod.spec.node_name) == ("dns-node-1", "default", "node-1")
    assert pod.metadata.annotations["kubernetes.io/config.source"] == "file"
    assert pod.spec.containers[0].image_pull_policy == "IfNotPresent"
    assert read_manifest(text, "node-1").metadata.uid == pod.metadata.uid
    for broken in (b"{", b"kind: Service\napiVersion: v1", b"apiVersion: v1\nkind: Pod\nspec: {containers: 3}"):
        with pytest.raises(ManifestError):
            read_manifest(broken, "node-1")


def test_configuration_documents() -> None:
    document = {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDNS": ["10.96.0.10"],
        "syncFrequency": "30s",
        "authentication": {"anonymous": {"enabled": True}},
        "somethingNew": 1,
    }
    config = KubeletConfiguration.from_dict(document)
    assert (config.cluster_dns, config.sync_frequency, config.anonymous_auth) == (
        ("10.96.0.10",),
        timedelta(seconds=30),
        True,
    )
    assert config.to_dict()["clusterDNS"] == ["10.96.0.10"]
    for wrong in ({"maxPods": "many"}, {"syncFrequency": "soon"}, {"kind": "Other"}):
        with pytest.raises(ConfigError):
            KubeletConfiguration.from_dict(wrong)
