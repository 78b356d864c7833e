"""In-place resize of real containers: other cgroup limits while they live on, a restart where one is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.kubelet.node import TestNode
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Pod
from tiphys.client import PatchType
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root

MEMORY = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
SHELL = ("sh", "-c")


def app(memory: str, cpu: str = "50m", **more: Any) -> dict[str, Any]:
    amounts = {"cpu": cpu, "memory": memory}
    return busybox("app", resources={"requests": amounts, "limits": amounts}, **more)


async def resize(node: TestNode, memory: str, cpu: str = "50m") -> None:
    amounts = {"cpu": cpu, "memory": memory}
    patch = {"spec": {"containers": [{"name": "app", "resources": {"requests": amounts, "limits": amounts}}]}}
    await node.client.patch(
        Pod, ObjectName("default", "web"), patch, patch_type=PatchType.STRATEGIC, subresource="resize"
    )


def has(memory: str, restarts: int = 0) -> Any:
    """Whether the container's status says that it runs with so much, and nothing is under way."""

    def holds(pod: Pod) -> bool:
        status = pod.status.container_statuses[0]
        asked = status.resources.limits.get("memory") if status.resources else None
        quiet = not any(condition.type.startswith("PodResize") for condition in pod.status.conditions)
        return (asked, status.restart_count, quiet) == (memory, restarts, True) and bool(status.ready)

    return holds


async def test_a_running_container_gets_other_limits(node: TestNode) -> None:
    await node.create("web", {"containers": [app("64Mi")]})
    before = await node.running("web")
    for memory, number in (("128Mi", 128 << 20), ("32Mi", 32 << 20)):
        await resize(node, memory)
        after = await node.wait("web", has(memory), f"memory {memory}")
        assert (await node.exec("web", *SHELL, MEMORY)).strip() == str(number)
    assert after.status.container_statuses[0].container_id == before.status.container_statuses[0].container_id
    assert after.status.container_statuses[0].allocated_resources["memory"] == "32Mi"
    assert '"memory":"128Mi"' in await node.event("web", "ResizeCompleted")


async def test_a_container_that_asks_for_it_is_restarted(node: TestNode) -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    await node.create("web", {"containers": [app("64Mi", resizePolicy=policy)]})
    await node.running("web")
    await resize(node, "128Mi")
    await node.wait("web", has("128Mi", restarts=1), "the restart")
    assert (await node.exec("web", *SHELL, MEMORY)).strip() == str(128 << 20)
    await resize(node, "128Mi", cpu="60m")
    await node.wait("web", has("128Mi", restarts=1), "the change of cpu")


async def test_what_never_fits_is_refused_and_a_restarted_kubelet_stays_with_it(node: TestNode) -> None:
    await node.create("web", {"containers": [app("64Mi")]})
    await node.running("web")
    await resize(node, "64Mi", cpu="10k")

    def refused(pod: Pod) -> bool:
        found = {condition.type: condition.reason for condition in pod.status.conditions}
        return found.get("PodResizePending") == "Infeasible"

    await node.wait("web", refused, "PodResizePending")
    await node.stop_kubelet()
    await node.start_kubelet()
    pod = await node.wait("web", refused, "PodResizePending")
    assert pod.status.container_statuses[0].restart_count == 0
    assert pod.status.container_statuses[0].allocated_resources["cpu"] == "50m"
    await resize(node, "96Mi")
    await node.wait("web", has("96Mi"), "memory 96Mi")
