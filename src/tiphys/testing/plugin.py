"""The pytest plugin, found by pytest through the entry point `pytest11` when Tiphys is installed.

    tiphys_cluster         one cluster for the session
    tiphys_empty_cluster   the same, emptied before and after the test
    tiphys_namespace       the name of a new namespace in it

For clusters with other settings, or a second one, use `tiphys.testing.cluster` in a fixture of your own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tiphys.testing.clusters import Cluster, cluster
from tiphys.testing.launcher import close, launcher

FIXTURE: Final = "tiphys_cluster"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the fork server as soon as it is known that it will be wanted: it imports while other tests run."""
    if session.config.option.collectonly:
        return
    if any(FIXTURE in getattr(item, "fixturenames", ()) for item in session.items):
        launcher()


def pytest_unconfigure() -> None:
    """Nothing is left once the tests are done."""
    close()


@pytest.fixture(scope="session")
def tiphys_cluster() -> Iterator[Cluster]:
    """A Kubernetes API server with controllers and without nodes: `.kubeconfig`, `.client_config`, `.namespace()`."""
    with cluster() as found:
        yield found


@pytest.fixture
def tiphys_empty_cluster(tiphys_cluster: Cluster) -> Iterator[Cluster]:
    """The session's cluster with nothing in it, and nothing left in it. Not for tests that run at the same time."""
    tiphys_cluster.reset()
    yield tiphys_cluster
    tiphys_cluster.reset()


@pytest.fixture
def tiphys_namespace(tiphys_cluster: Cluster) -> str:
    """A namespace of its own for this test, ready for pods."""
    return tiphys_cluster.namespace()
