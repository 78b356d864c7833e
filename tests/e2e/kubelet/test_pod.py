"""Pods on a real node: started, restarted, ended, and gone without a trace."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.e2e.kubelet.node import BUSYBOX, TestNode, leftovers, processes_of

pytestmark = pytest.mark.root


def busybox(name: str = "app", *command: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command) or ["sleep", "1000"],
        **more,
    }


async def test_a_pod_runs_and_is_deleted_without_a_trace(node: TestNode) -> None:
    began = time.monotonic()
    await node.create("web", {"containers": [busybox()]})
    pod = await node.running("web")
    print(f"create to Running: {time.monotonic() - began:.3f} s")
    assert pod.status.pod_ip.startswith("10.244.77.")
    assert pod.status.host_ip == "127.0.0.1"
    assert pod.status.qos_class == "BestEffort"
    status = pod.status.container_statuses[0]
    assert status.ready and status.started and status.restart_count == 0
    assert status.container_id.startswith("containerd://" if node.containerd else "tiphys://")
    conditions = {condition.type: condition.status for condition in pod.status.conditions}
    assert conditions == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"), "True"
    )
    assert await node.event("web", "Started") == "Container started"
    began = time.monotonic()
    await node.delete("web", grace=0 + 1)
    await node.gone("web")
    print(f"delete to gone: {time.monotonic() - began:.3f} s")
    assert leftovers(node)["cgroups"] == []


async def test_a_container_killed_from_outside_is_restarted(node: TestNode) -> None:
    await node.create("phoenix", {"containers": [busybox("app", "sh", "-c", "echo $$; exec sleep 1000")]})
    await node.running("phoenix")
    pids = [int(line) for line in (await node.exec("phoenix", "pidof", "sleep")).split()]
    assert pids == [1]
    for process in processes_of(node):
        os.kill(process, signal.SIGKILL)
    pod = await node.wait(
        "phoenix",
        lambda pod: (
            bool(pod.status.container_statuses)
            and pod.status.container_statuses[0].restart_count == 1
            and pod.status.container_statuses[0].ready
        ),
        "restarted",
    )
    last = pod.status.container_statuses[0].last_state
    assert last is not None and last.terminated is not None
    assert (last.terminated.exit_code, last.terminated.reason) == (137, "Error")
