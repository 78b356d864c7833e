"""The pod suite with containerd in our runtime's place: the kubelet depends on nothing but CRI."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.kubelet.containerd import Containerd, missing
from tests.e2e.kubelet.node import TestNode, running_node
from tests.e2e.kubelet.test_containers import *  # noqa: F403 - the tests, run again with this module's node
from tests.e2e.kubelet.test_pod import *  # noqa: F403

pytestmark = pytest.mark.root


@pytest.fixture
async def node() -> AsyncIterator[TestNode]:
    if os.geteuid() != 0 or missing():
        pytest.skip(f"needs root and containerd; this machine lacks {', '.join(missing()) or 'root'}")
    root = Path(tempfile.mkdtemp(prefix="tph-test-", dir="/tmp"))
    try:
        async with running_node(root, containerd=Containerd(root / "c")) as started:
            yield started
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def test_a_pod_that_is_to_have_users_of_its_own_does_not_run_with_the_nodes(node: TestNode) -> None:
    """This containerd is older than user namespaces in CRI."""
    await node.create("users", {"hostUsers": False, "containers": [busybox()]})  # noqa: F405
    said = await node.event("users", "FailedCreatePodSandBox")
    assert "can't set `spec.hostUsers: false`, runtime does not support user namespaces" in said
    pod = await node.pod("users")
    assert pod is not None and pod.status.phase == "Pending"
