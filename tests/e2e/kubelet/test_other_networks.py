"""Other people's CNI plugins that fail: the pod's event says how, and the pod runs when they have been mended."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.kubelet.node import TestNode, running_node
from tests.e2e.kubelet.test_pod import busybox
from tiphys.cmd.runtime import NetworkOfPods
from tiphys.network.cni import setup
from tiphys.network.cni.runner import Runner
from tiphys.network.cni.setup import PodNetworks

pytestmark = pytest.mark.root
WORKS = """#!/bin/sh
cat > /dev/null
case $CNI_COMMAND in ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.244.77.9/24"}]}';; esac
"""


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TestNode]:
    if os.geteuid() != 0 or not shutil.which("runc") or not shutil.which("conmon"):
        pytest.skip("needs root, runc and conmon")
    monkeypatch.setattr(setup, "Runner", partial(Runner, timeout=1.0))
    # A short path: sockets of the runtime have to fit into 108 bytes.
    root = Path(tempfile.mkdtemp(prefix="tph-test-", dir="/tmp"))
    (root / "net.d").mkdir()
    network = {"cniVersion": "1.0.0", "name": "theirs", "plugins": [{"type": "theirs"}]}
    (root / "net.d/10-theirs.conflist").write_text(json.dumps(network))
    (root / "bin").mkdir()
    networks = PodNetworks(
        subnet_file=root / "no-subnet.json", state=root / "net", conf_dir=root / "net.d", bin_dirs=[root / "bin"]
    )
    try:
        async with running_node(root, network=NetworkOfPods(networks)) as started:
            yield started
    finally:
        networks.close()
        shutil.rmtree(root, ignore_errors=True)


def _install(node: TestNode, script: str) -> None:
    new = node.root / "bin" / ".theirs"
    new.write_text(script)
    new.chmod(0o755)
    new.replace(node.root / "bin" / "theirs")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("#!/bin/sh\ncat > /dev/null\nsleep 600 &\nwait\n", "no answer in 1 s", id="hangs"),
        pytest.param("#!/bin/sh\ncat > /dev/null\necho hello world\n", "its output is not JSON: 'hello", id="rubbish"),
        pytest.param("#!/bin/sh\nkill -9 $$\n", "plugin type='theirs' failed (add): exit status -9", id="dies"),
    ],
)
async def test_a_plugin_that_fails_is_told_and_tried_again(node: TestNode, script: str, message: str) -> None:
    _install(node, script)
    await node.create("web", {"containers": [busybox()]})
    assert message in await node.event("web", "FailedCreatePodSandBox")
    _install(node, WORKS)
    pod = await node.running("web")
    assert pod.status.pod_ip == "10.244.77.9"
