"""Pods whose pause process dies: the sandbox changes, and nothing of the old one stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kubelet.node import TestNode, eventually, leftovers
from tests.e2e.kubelet.test_pod import busybox
from tests.e2e.runtime.harness import until
from tests.e2e.runtime.test_pause import pauses
from tiphys.api.core.v1 import Pod
from tiphys.runtime.container import Container
from tiphys.runtime.containers import Containers
from tiphys.runtime.errors import RuntimeFault
from tiphys.runtime.process import is_ending

pytestmark = pytest.mark.root

CHANGED = ("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")


def spec(**more: Any) -> dict[str, Any]:
    """Two containers with a mount, which share their process ids."""
    mounts = [{"name": "memory", "mountPath": "/memory"}]
    return {
        "shareProcessNamespace": True,
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        "containers": [
            busybox("one", "sleep", "1000", volumeMounts=mounts),
            busybox("two", "sleep", "1000", volumeMounts=mounts),
        ],
        **more,
    }


def restarts(pod: Pod) -> list[int]:
    return [status.restart_count for status in pod.status.container_statuses]


def ready(pod: Pod, count: int) -> bool:
    """Every container runs again, for the `count`-th time after its first."""
    statuses = pod.status.container_statuses
    return restarts(pod) == [count, count] and all(status.ready for status in statuses)


def pins(node: TestNode) -> list[Path]:
    """The namespaces that are held for sandboxes."""
    return list((node.root / "run" / "sandboxes").glob("*/ns/net"))


def kill_pause(node: TestNode) -> None:
    (pause,) = pauses(node.runtime_options)
    os.kill(pause, signal.SIGKILL)


async def nothing_left(node: TestNode, name: str) -> None:
    await node.delete(name, grace=1)
    await node.gone(name)

    async def clean() -> bool:  # a pod that has ended may leave the API first
        return not any(leftovers(node).values()) and not pins(node)

    await eventually(clean, "nothing left")


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
async def test_a_pod_comes_back_in_another_sandbox(node: TestNode, policy: str) -> None:
    init = [busybox("init", "true"), busybox("beside", "sleep", "1000", restartPolicy="Always")]
    await node.create("shares", spec(restartPolicy=policy, initContainers=init if policy == "Always" else []))
    before = await node.running("shares")
    mounts = len(leftovers(node)["mounts"])
    kill_pause(node)
    after = await node.wait("shares", lambda pod: ready(pod, 1), "started again")
    assert after.status.pod_ip not in (before.status.pod_ip, None, "")
    for status in after.status.container_statuses:
        assert status.last_state is not None and status.last_state.terminated is not None
        assert (status.last_state.terminated.exit_code, status.last_state.terminated.reason) == (137, "Error")
    reasons = await node.events("shares")
    assert CHANGED in reasons
    assert not [(reason, message) for reason, message in reasons if reason.startswith("Failed")]
    assert (len(leftovers(node)["mounts"]), len(pins(node))) == (mounts, 1)
    await nothing_left(node, "shares")


async def test_a_pod_that_never_restarts_is_over(node: TestNode) -> None:
    await node.create("once", spec(restartPolicy="Never"))
    await node.running("once")
    kill_pause(node)
    pod = await node.phase("once", "Failed")
    assert restarts(pod) == [0, 0]

    async def given_back() -> bool:
        return not pins(node)

    await eventually(given_back, "the sandbox stopped")
    assert CHANGED not in await node.events("once")
    await nothing_left(node, "once")


async def test_a_container_that_was_not_started_yet_has_its_run(
    node: TestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a pod that never restarts: its sandbox goes between the making and the start of the container."""
    starts: list[str] = []
    start = Containers.start

    async def start_after_the_kill(self: Containers, container: Container) -> None:
        if container.record.infra or starts:
            await start(self, container)
            return
        starts.append(container.id)
        (pause,) = pauses(node.runtime_options)
        os.kill(pause, signal.SIGKILL)
        await until(lambda: is_ending(pause))
        raise RuntimeFault("the pause process is gone")

    monkeypatch.setattr(Containers, "start", start_after_the_kill)
    app = busybox("app", "true")
    await node.create("late", {"shareProcessNamespace": True, "restartPolicy": "Never", "containers": [app]})
    await node.phase("late", "Succeeded")
    assert CHANGED in await node.events("late")
    await nothing_left(node, "late")


async def test_a_pod_without_shared_process_ids_has_no_pause_process(node: TestNode) -> None:
    await node.create("alone", spec(shareProcessNamespace=False))
    await node.running("alone")
    assert pauses(node.runtime_options) == []
    await nothing_left(node, "alone")
