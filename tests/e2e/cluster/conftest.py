"""One cluster for all tests of this folder, and a namespace for each."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.harness import NAME, PORT, Cluster, In, kubectls

# The oldest supported, one in the middle, the newest there is.
_ALL = kubectls()
VERSIONS = [path for path in _ALL if path.name.endswith((".27", ".30"))] + _ALL[-1:]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/cluster" in str(item.path):
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="nodes need root"))
            elif shutil.which("kubectl") is None:
                item.add_marker(pytest.mark.skip(reason="there is no kubectl on this machine"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes; silence makes a node NotReady after eight seconds instead of forty."""
    found = Cluster(NAME)
    found.down("--purge")
    try:
        found.up("--nodes", "2", "--api-port", PORT, "--node-monitor-grace-period", "8s")
        yield found
    finally:
        found.down("--purge")


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "t-" + "".join(char if char.isalnum() else "-" for char in request.node.name.lower())[:50].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=true", "--timeout=90s")


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def user(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[In]:
    """The cluster through one version of kubectl, in a namespace of its own."""
    yield from _in_a_namespace(cluster, request.param, request.node.name)


@pytest.fixture
def newest(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[In]:
    """Through the newest kubectl alone: for what does not depend on the version."""
    yield from _in_a_namespace(cluster, VERSIONS[-1], request.node.name)


def _in_a_namespace(cluster: Cluster, program: Path, test: str) -> Iterator[In]:
    chosen = Cluster(cluster.name, program)
    words = re.sub(r"[^a-z0-9]+", "-", test.lower())
    namespace = f"k-{words[:36].strip('-')}-{program.name.rpartition('.')[2]}"
    chosen.kubectl("create", "namespace", namespace)
    try:
        yield In(chosen, namespace)
    finally:
        chosen.kubectl("delete", "namespace", namespace, "--timeout=90s")
