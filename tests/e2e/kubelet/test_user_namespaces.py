"""Pods with users of their own: who they are inside and outside, and whose their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kubelet.node import TestNode, eventually, leftovers
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import ConfigMap, Node, Pod, Secret
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.machinery.meta import ObjectName
from tiphys.runtime import usernamespaces

pytestmark = pytest.mark.root

VOLUMES: list[dict[str, Any]] = [
    {"name": "scratch", "emptyDir": {}},
    {"name": "memory", "emptyDir": {"medium": "Memory"}},
    {"name": "settings", "configMap": {"name": "settings"}},
    {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}},
    {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
]
# What is found where, as the pod's root sees it: mode, user and group, and the file's name.
LOOK = (
    "stat -Lc '%a %u:%g %n' /scratch /memory /settings/key /secret/key /token/token /etc/hosts /etc/hostname /dev/shm /"
)


@pytest.fixture
async def mapped(node: TestNode) -> TestNode:
    """A node whose directories the users of pods may pass through, as those of a real one."""
    reason = usernamespaces.supported(node.root)
    if reason:
        pytest.skip(f"no user namespaces for pods here: {reason}")
    node.root.chmod(0o711)
    await node.client.create(ConfigMap(metadata=ObjectMeta(name="settings", namespace="default"), data={"key": "a"}))
    await node.client.create(Secret(metadata=ObjectMeta(name="secret", namespace="default"), data={"key": b"b"}))
    return node


def spec(**more: Any) -> dict[str, Any]:
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in VOLUMES]
    security = {"capabilities": {"add": ["NET_ADMIN"]}}
    container = busybox(volumeMounts=mounts, securityContext=security)
    return {"hostUsers": False, "volumes": VOLUMES, "containers": [container], **more}


def pid_of(node: TestNode, name: str) -> int:
    """The first process of the pod's container, on the node."""
    assert node.kubelet is not None and node.kubelet.manager is not None
    worker = node.kubelet.manager.find("default", name)
    assert worker is not None
    (container,) = (found for found in worker.runtime.containers if found.running)
    return int((node.runtime_options.bundle(container.id) / "pid").read_text())


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def test_root_of_a_pod_is_nobody_on_the_node(mapped: TestNode) -> None:
    node = mapped
    found = await node.client.get(Node, ObjectName("", node.name))
    assert all(handler.features and handler.features.user_namespaces for handler in found.status.runtime_handlers)
    await node.create("one", spec())
    await node.create("two", spec(shareProcessNamespace=True, securityContext={"fsGroup": 2000}))
    await node.running("one")
    await node.running("two")
    assert (await node.exec("one", "id", "-u")).strip() == "0"
    first, second = user_of(pid_of(node, "one")), user_of(pid_of(node, "two"))
    assert first >= 65536 and second >= 65536 and first % 65536 == second % 65536 == 0
    assert first != second
    assert (await node.exec("one", "cat", "/proc/self/uid_map")).split() == ["0", str(first), "65536"]
    assert (await node.exec("one", "cat", "/proc/self/gid_map")).split() == ["0", str(first), "65536"]

    seen = (await node.exec("one", "sh", "-c", LOOK)).splitlines()
    assert {line.split()[1] for line in seen} == {"0:0"}, seen
    assert "400 0:0 /secret/key" in seen
    # Written with the pod's users inside, with the node's on its disk: a volume looks the same to every pod.
    await node.exec(
        "one", "sh", "-c", "echo x > /scratch/x; echo y > /memory/y; echo z > /root-file; chown 7 /scratch/x"
    )
    one = await node.pod("one")
    assert one is not None
    volumes = node.root / "kubelet" / "pods" / one.metadata.uid / "volumes" / "kubernetes.io~empty-dir"
    assert (volumes / "scratch" / "x").stat().st_uid == 7
    assert (volumes / "memory" / "y").stat().st_uid == 0
    assert "2000 /scratch" in await node.exec("two", "stat", "-c", "%g %n", "/scratch")

    # Root is root of its own network and of nothing that is the node's.
    assert await node.exec("one", "ip", "link", "set", "lo", "down") == ""
    assert "not permitted" in await node.exec("one", "mknod", "/x", "b", "8", "0")
    for name in ("one", "two"):
        await node.delete(name, grace=0)
        await node.gone(name)

    async def nothing_left() -> bool:
        return not any(leftovers(node).values())

    await eventually(nothing_left, "the end of all that was theirs")


async def test_a_pod_keeps_its_users_over_restarts(mapped: TestNode) -> None:
    node = mapped
    await node.create("stays", spec(containers=[busybox("app", "sh", "-c", "trap exit TERM; sleep 1000 & wait")]))
    await node.running("stays")
    before = user_of(pid_of(node, "stays"))
    await node.stop_kubelet()
    await node.stop_runtime()
    await node.start_runtime()
    await node.start_kubelet()
    await node.create("other", spec())
    await node.running("other")
    assert user_of(pid_of(node, "other")) not in (before, 0)

    def restarted(pod: Pod) -> bool:
        statuses = pod.status.container_statuses
        return bool(statuses) and statuses[0].restart_count == 1 and statuses[0].ready

    await node.exec("stays", "sh", "-c", "kill 1")
    await node.wait("stays", restarted, "a restart")
    assert user_of(pid_of(node, "stays")) == before


async def test_what_cannot_be_given_to_the_pods_users_is_said(mapped: TestNode) -> None:
    mount = {"name": "kernel", "mountPath": "/kernel"}
    volume = {"name": "kernel", "hostPath": {"path": "/proc"}}
    await mapped.create("odd", {"hostUsers": False, "volumes": [volume], "containers": [busybox(volumeMounts=[mount])]})
    said = await mapped.event("odd", "Failed")
    assert "failed to set MOUNT_ATTR_IDMAP on /proc: Invalid argument" in said
