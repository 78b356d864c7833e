"""Block devices of the node in containers: as devices, and as the file systems the kubelet makes on them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kubelet.claims import bound, using
from tests.e2e.kubelet.node import TestNode
from tests.e2e.kubelet.test_pod import busybox
from tiphys.kubelet.mounts import mount_points

pytestmark = pytest.mark.root


@pytest.fixture
def device(node: TestNode) -> Iterator[Path]:
    file = node.root / "disk"
    with file.open("wb") as made:
        made.truncate(16 << 20)
    command = ["losetup", "-f", "--show", str(file)]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield Path(path)
    subprocess.run(["losetup", "-d", path], check=True)


def local(node: TestNode, path: Path) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}]}
    return {"local": {"path": str(path)}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}


async def test_a_device_is_given_to_the_container_as_it_is(node: TestNode, device: Path) -> None:
    await bound(node, "raw", volumeMode="Block", **local(node, device))
    container = {**busybox(), "volumeDevices": [{"name": "data", "devicePath": "/dev/given"}]}
    await node.create("raw", {"containers": [container], "volumes": using("raw")})
    await node.running("raw")
    await node.exec("raw", "sh", "-c", "echo written > /dev/given; sync")
    assert device.open("rb").read(8) == b"written\n"
    await node.delete("raw")
    await node.gone("raw")


async def test_an_empty_device_becomes_a_file_system_that_pods_share(node: TestNode, device: Path) -> None:
    await bound(node, "disk", **local(node, device))
    container = {**busybox(), "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    spec = {"containers": [container], "volumes": using("disk"), "securityContext": {"fsGroup": 2000}}
    for name in ("first", "second"):
        await node.create(name, spec)
        await node.running(name)
    await node.exec("first", "sh", "-c", "echo kept > /data/file")
    assert await node.exec("second", "cat", "/data/file") == "kept\n"
    assert (await node.exec("second", "stat", "-c", "%g", "/data/file")).strip() == "2000"
    await node.delete("first")
    await node.gone("first")
    assert await node.exec("second", "cat", "/data/file") == "kept\n"
    await node.delete("second")
    await node.gone("second")
    assert not [point for point in mount_points(node.root) if "local-volume" in point]
    assert not os.listdir(node.flags.root_dir / "plugins/kubernetes.io/local-volume/mounts")


async def test_a_device_cannot_be_mounted(node: TestNode, device: Path) -> None:
    await bound(node, "raw", volumeMode="Block", **local(node, device))
    container = {**busybox(), "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    await node.create("wrong", {"containers": [container], "volumes": using("raw")})
    said = await node.event("wrong", "FailedMount")
    assert "volume data has volumeMode Block, but is specified in volumeMounts" in said
