"""`tiphys up --simulated-nodes`: a Deployment on nodes that are not there, through every component, without root."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tiphys.api.apps.v1 import Deployment
from tiphys.api.core.v1 import Node, Pod
from tiphys.client import Client, RestConfig
from tiphys.machinery.meta import ObjectName

TIPHYS = (sys.executable, "-m", "tiphys.cmd.main")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "kubeconfig"
    place = ("--name", "simulated-test", "--state-dir", str(tmp_path / "state"))
    flags = ("--control-plane-only", "--simulated-nodes", "3", "--api-port", str(free_port()))
    try:
        subprocess.run([*TIPHYS, "up", *place, *flags, "--kubeconfig", str(found)], check=True, capture_output=True)
        yield found
    finally:
        subprocess.run([*TIPHYS, "down", *place, "--purge"], check=True, capture_output=True)


async def test_a_deployment_becomes_ready_on_simulated_nodes(kubeconfig: Path) -> None:
    labels = {"app": "web"}
    raw: dict[str, Any] = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 30,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "any"}]}},
        },
    }
    async with Client(RestConfig.from_kubeconfig(kubeconfig)) as client:
        nodes = (await client.list(Node)).items
        assert len(nodes) == 3
        await client.create(msgspec.convert(raw, Deployment))
        for _ in range(1500):
            found = await client.get(Deployment, ObjectName("default", "web"))
            if found.status.available_replicas == 30:
                break
            await asyncio.sleep(0.02)
        assert found.status.available_replicas == 30
        pods = (await client.list(Pod, namespace="default")).items
        assert {pod.spec.node_name for pod in pods} == {node.metadata.name for node in nodes}
        assert len({pod.status.pod_ip for pod in pods}) == 30
