"""The kubelet's own death, static pods, and the end of what nobody owns."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.e2e.kubelet.node import BUSYBOX, TestNode, eventually, leftovers, processes_of
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.coordination.v1 import Lease
from tiphys.api.core.v1 import Node, Pod
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root


async def another_container(node: TestNode, before: Pod, what: str) -> None:
    """Wait until the static pod runs in another container than `before`."""
    old = before.status.container_statuses[0].container_id

    def runs(pod: Pod) -> bool:
        statuses = pod.status.container_statuses
        return bool(statuses) and statuses[0].ready and statuses[0].container_id != old

    await node.wait("static-node-1", runs, what)


async def test_a_restarted_kubelet_finds_its_containers_running(node: TestNode) -> None:
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    await node.create("stays", {"containers": [busybox("app", "sleep", "1000", readinessProbe=probe)]})
    before = await node.running("stays")
    await node.create("goes", {"containers": [busybox()]})
    await node.running("goes")
    await node.stop_kubelet()
    await node.client.delete(Pod, ObjectName("default", "goes"), grace_period_seconds=0)
    await node.start_kubelet()

    async def one_left() -> bool:
        return len(leftovers(node)["cgroups"]) == 1

    await eventually(one_left, "the forgotten pod removed")
    after = await node.running("stays")
    assert after.status.container_statuses == before.status.container_statuses
    assert after.status.conditions == before.status.conditions


async def test_a_pod_deleted_while_the_kubelet_was_down_is_ended(node: TestNode) -> None:
    await node.create("ended", {"containers": [busybox()]})
    await node.running("ended")
    await node.stop_kubelet()
    await node.delete("ended", grace=1)
    await node.start_kubelet()
    await node.gone("ended")


STATIC = f"""
apiVersion: v1
kind: Pod
metadata: {{name: static, namespace: default}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: {BUSYBOX}, imagePullPolicy: IfNotPresent, command: [sleep, "1000"]}}]
"""


async def test_a_static_pod_that_is_put_back_while_it_ends_starts_anew(node: TestNode) -> None:
    path = node.root / "manifests" / "static.yaml"
    path.write_text(STATIC)
    first = await node.running("static-node-1")
    assert node.kubelet is not None and node.kubelet.manager is not None
    worker = node.kubelet.manager.static_worker("static-node-1_default")
    path.unlink()

    async def ending() -> bool:
        return worker is not None and worker.removed

    await eventually(ending, "the end of the pod")
    path.write_text(STATIC)
    await another_container(node, first, "the pod that was put back")
    path.unlink()
    await node.gone("static-node-1")


async def test_a_static_pod_has_a_mirror_that_comes_back(node: TestNode) -> None:
    path = node.root / "manifests" / "static.yaml"
    path.write_text(STATIC)
    mirror = await node.running("static-node-1")
    assert mirror.metadata.annotations["kubernetes.io/config.source"] == "file"
    await node.delete("static-node-1", grace=0)
    again = await node.wait("static-node-1", lambda pod: pod.metadata.uid != mirror.metadata.uid, "another mirror")
    again = await node.running("static-node-1")
    assert again.status.container_statuses[0].container_id == mirror.status.container_statuses[0].container_id
    path.write_text(STATIC.replace('"1000"', '"2000"'))
    await another_container(node, mirror, "the edited pod")
    path.unlink()
    await node.gone("static-node-1")


async def test_the_node_is_registered_and_ready(node: TestNode) -> None:
    async def ready() -> bool:
        found = await node.client.get(Node, ObjectName("", "node-1"))
        return any(condition.type == "Ready" and condition.status == "True" for condition in found.status.conditions)

    await eventually(ready, "the node ready")
    found = await node.client.get(Node, ObjectName("", "node-1"))
    conditions = {condition.type: condition for condition in found.status.conditions}
    assert conditions["Ready"].reason == "KubeletReady"
    assert conditions["Ready"].message == "kubelet is posting ready status"
    assert found.metadata.labels["kubernetes.io/hostname"] == "node-1"
    assert found.status.node_info is not None
    assert found.status.node_info.kubelet_version == "v1.36.2"
    assert found.status.capacity["pods"] == "110"
    assert {address.type for address in found.status.addresses} == {"InternalIP", "Hostname"}

    async def leased() -> bool:
        return bool((await node.client.list(Lease, namespace="kube-node-lease")).items)

    await eventually(leased, "a lease")
    leases = (await node.client.list(Lease, namespace="kube-node-lease")).items
    assert leases[0].spec.holder_identity == "node-1"


async def test_the_runtime_may_be_restarted_under_the_kubelet(node: TestNode) -> None:
    await node.create("lasts", {"containers": [busybox()]})
    before = await node.running("lasts")
    await node.stop_runtime()
    await node.start_runtime()
    await node.create("fresh", {"containers": [busybox()]})
    await node.running("fresh")
    after = await node.running("lasts")
    assert after.status.container_statuses == before.status.container_statuses


async def test_a_container_that_ends_while_the_runtime_is_down_is_restarted(node: TestNode) -> None:
    await node.create("unseen", {"containers": [busybox("app", "sleep", "1000")]})
    await node.running("unseen")
    await node.stop_runtime()
    for pid in processes_of(node):
        os.kill(pid, signal.SIGKILL)

    async def ended() -> bool:
        return not processes_of(node)

    await eventually(ended, "the end of the container")
    await node.start_runtime()
    pod = await node.wait("unseen", lambda pod: pod.status.container_statuses[0].restart_count >= 1, "restarted")
    assert pod.status.phase == "Running"


async def test_many_pods_leave_nothing(node: TestNode) -> None:
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "memory", "mountPath": "/memory"}]
    spec = {"volumes": volumes, "containers": [busybox("app", "sleep", "1000", volumeMounts=mounts)]}
    names = [f"many-{number}" for number in range(12)]
    await asyncio.gather(*(node.create(name, spec) for name in names))
    await asyncio.gather(*(node.running(name) for name in names))
    # Half of them while others are being made anew: deletion in every state.
    await asyncio.gather(*(node.create(f"{name}-again", spec) for name in names))
    await asyncio.gather(*(node.delete(name, grace=1) for name in [*names, *(f"{name}-again" for name in names)]))
    await asyncio.gather(*(node.gone(name) for name in [*names, *(f"{name}-again" for name in names)]))

    async def clean() -> bool:
        left = leftovers(node)
        return not (left["mounts"] or left["cgroups"])

    await eventually(clean, "nothing left")
    assert list((node.root / "kubelet" / "pods").iterdir()) == []
    assert list((node.root / "logs").iterdir()) == []
