"""One running node for each test of this directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.kubelet.node import TestNode, running_node


@pytest.fixture
async def node() -> AsyncIterator[TestNode]:
    if os.geteuid() != 0 or not shutil.which("runc") or not shutil.which("conmon"):
        pytest.skip("needs root, runc and conmon")
    # A short path: sockets of the runtime have to fit into 108 bytes.
    root = Path(tempfile.mkdtemp(prefix="tph-test-", dir="/tmp"))
    try:
        async with running_node(root) as started:
            yield started
    finally:
        shutil.rmtree(root, ignore_errors=True)  # also when it never came up
