"""Pods made to hurt: a container or a clear refusal, the node's own files as they were, and the kubelet lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kubelet.node import TestNode
from tests.e2e.kubelet.test_pod import busybox
from tiphys.api.core.v1 import Pod

pytestmark = pytest.mark.root


@pytest.fixture
def outside(node: TestNode) -> Iterator[Path]:
    """A directory of the node that no pod was given."""
    directory = node.root / "outside"
    directory.mkdir()
    (directory / "file").write_text("the node's")
    yield directory
    assert [path.name for path in directory.iterdir()] == ["file"]
    assert (directory / "file").read_text() == "the node's"


def waits(pod: Pod) -> str:
    statuses = pod.status.container_statuses
    waiting = statuses[0].state.waiting if statuses and statuses[0].state else None
    return f"{waiting.reason}: {waiting.message}" if waiting and waiting.reason != "ContainerCreating" else ""


async def refused(node: TestNode, name: str, spec: dict[str, Any]) -> str:
    """Why the container waits."""
    await node.create(name, spec)
    return waits(await node.wait(name, lambda pod: bool(waits(pod)), "a reason to wait"))


async def said_by(node: TestNode, name: str, env: list[dict[str, str]]) -> str:
    """The log of a container that could not begin with this environment."""
    await node.create(name, {"restartPolicy": "Never", "containers": [busybox("app", "true", env=env)]})
    pod = await node.phase(name, "Failed")
    return await asyncio.to_thread(node.log(pod, "app").read_text)


async def alive(node: TestNode) -> None:
    await node.create("next", {"containers": [busybox()]})
    await node.running("next")


@pytest.mark.parametrize("link", ["OUTSIDE", "OUTSIDE/file", "/", "../../../../../../../../etc", "loop"])
async def test_links_of_a_volume_do_not_lead_a_subpath_out(node: TestNode, outside: Path, link: str) -> None:
    volume = node.root / "volume"
    volume.mkdir()
    (volume / "loop").symlink_to("loop")
    (volume / "link").symlink_to(link.replace("OUTSIDE", str(outside)))
    mounts = [{"name": "data", "mountPath": "/data", "subPath": "link"}]
    spec = {
        "volumes": [{"name": "data", "hostPath": {"path": str(volume)}}],
        "containers": [busybox("app", "sh", "-c", "echo x > /data/file; echo x > /data", volumeMounts=mounts)],
    }
    assert (await refused(node, "leads-out", spec)).startswith("CreateContainerConfigError: ")
    await alive(node)


async def test_a_link_under_a_mount_stays_in_the_container(node: TestNode, outside: Path) -> None:
    """Mount points inside a volume that has links are made where the container sees them, not where the node would."""
    volume = node.root / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(outside)
    mounts = [{"name": "data", "mountPath": "/data"}, {"name": "more", "mountPath": "/data/link/made"}]
    spec = {
        "volumes": [{"name": "data", "hostPath": {"path": str(volume)}}, {"name": "more", "emptyDir": {}}],
        "containers": [busybox("app", "sh", "-c", "echo x > /data/link/made/file; sleep 1000", volumeMounts=mounts)],
    }
    await node.create("linked", spec)
    await node.wait("linked", lambda pod: pod.status.phase == "Running" or bool(waits(pod)), "it runs, or is refused")


@pytest.mark.parametrize(
    "container",
    [
        {"workingDir": "/../../../../../outside"},
        {"terminationMessagePath": "/../../../../../outside/message"},
        {"command": ["/../../../../../../../bin/sh", "-c", "exit 0"]},
    ],
    ids=lambda found: next(iter(found)),
)
async def test_paths_of_a_container_are_its_own(node: TestNode, outside: Path, container: dict[str, Any]) -> None:
    await node.create("paths", {"restartPolicy": "Never", "containers": [{**busybox("app", "true"), **container}]})
    done = ("Succeeded", "Failed")
    await node.wait("paths", lambda pod: pod.status.phase in done or bool(waits(pod)), "an end")
    await alive(node)


async def test_an_environment_of_megabytes(node: TestNode) -> None:
    """The kernel takes 128 KiB a variable (MAX_ARG_STRLEN)."""
    env = [{"name": f"V{number}", "value": "x" * 300_000} for number in range(4)]
    assert "argument list too long" in await said_by(node, "large", env)
    await alive(node)


async def test_many_references_expand_without_end(node: TestNode) -> None:
    """Each variable is ten times the one before: what it comes to is refused, not computed for minutes."""
    env = [{"name": "V0", "value": "x" * 10}]
    env += [{"name": f"V{n}", "value": f"$(V{n - 1})" * 10} for n in range(1, 7)]
    assert "argument list too long" in await said_by(node, "bomb", env)
    await alive(node)
