"""CPUs and memory of their own: seen from inside the containers, kept over a kubelet's restart, given back."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kubelet.node import TestNode, eventually, running_node
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Pod
from tiphys.kubelet.topology.cpuset import parse, show
from tiphys.machinery.meta import ObjectName

pytestmark = pytest.mark.root
CPUS = sorted(os.sched_getaffinity(0))
ALLOWED = "grep Cpus_allowed_list: /proc/self/status | cut -f2"


@pytest.fixture
async def node() -> AsyncIterator[TestNode]:
    """The first CPU is the system's; containers may have the others for themselves."""
    if os.geteuid() != 0 or not shutil.which("runc") or not shutil.which("conmon"):
        pytest.skip("needs root, runc and conmon")
    if len(CPUS) < 2:
        pytest.skip("needs two CPUs")
    root = Path(tempfile.mkdtemp(prefix="tph-test-", dir="/tmp"))
    settings: dict[str, Any] = {
        "cpu_manager_policy": "static",
        "reserved_system_cpus": str(CPUS[0]),
        "memory_manager_policy": "Static",
        "reserved_memory": ({"numaNode": 0, "limits": {"memory": "100Mi"}},),
        "system_reserved": {"memory": "100Mi"},
        "topology_manager_policy": "single-numa-node",
    }
    try:
        async with running_node(root, **settings) as started:
            yield started
    finally:
        shutil.rmtree(root, ignore_errors=True)


def exclusive(cpus: str = "1") -> dict[str, Any]:
    amounts = {"cpu": cpus, "memory": "32Mi"}
    return {**busybox(), "resources": {"requests": amounts, "limits": amounts}}


async def allowed(node: TestNode, pod: str) -> str:
    return (await node.exec(pod, "sh", "-c", ALLOWED)).strip()


async def test_whole_cpus_are_a_containers_own(node: TestNode) -> None:
    everything = show(CPUS)
    await node.create("shares", {"containers": [busybox()]})
    await node.running("shares")
    assert await allowed(node, "shares") == everything
    await node.create("owns", {"containers": [exclusive()]})
    await node.running("owns")
    own = parse(await allowed(node, "owns"))
    assert len(own) == 1 and CPUS[0] not in own
    assert (await node.exec("owns", "sh", "-c", "grep Mems_allowed_list: /proc/self/status | cut -f2")).strip() == "0"

    async def shares(cpus: str) -> None:
        async def moved() -> bool:
            return await allowed(node, "shares") == cpus

        await eventually(moved, f"the other container on CPUs {cpus}")

    others = show(set(CPUS) - own)
    await shares(others)
    await node.stop_kubelet()
    await node.start_kubelet()
    await node.running("owns")
    await asyncio.sleep(0.1)
    assert (await allowed(node, "owns"), await allowed(node, "shares")) == (show(own), others)
    await node.delete("owns", grace=1)
    await node.gone("owns")
    await shares(everything)


async def test_too_few_cpus_refuse_the_pod(node: TestNode) -> None:
    spec = {"containers": [exclusive(str(len(CPUS)))]}
    await node.create("too-many", spec)
    pod = await node.phase("too-many", "Failed")
    assert pod.status.reason == "TopologyAffinityError"
    assert pod.status.message == "Pod was rejected: Resources cannot be allocated with Topology locality"


async def test_what_is_its_own_is_not_resized(node: TestNode) -> None:
    await node.create("fixed", {"containers": [exclusive()]})
    await node.running("fixed")
    amounts = {"cpu": "1500m", "memory": "32Mi"}
    patch = {"spec": {"containers": [{"name": "app", "resources": {"requests": amounts, "limits": amounts}}]}}
    await node.client.patch(Pod, ObjectName("default", "fixed"), patch, subresource="resize")

    def refused(pod: Pod) -> bool:
        said = "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"
        return any(c.type == "PodResizePending" and c.message == said for c in pod.status.conditions)

    await node.wait("fixed", refused, "the resize refused")
