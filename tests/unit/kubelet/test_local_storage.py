"""Limits of local storage: whose are exceeded, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubelet.builders import make_pod
from tiphys.kubelet.eviction.local import CONTAINER_LIMIT, EMPTY_DIR_LIMIT, POD_LIMIT, has_limits, over_limit
from tiphys.kubelet.paths import Paths

KIB = 1024


def limited(name: str, limit: str) -> dict[str, Any]:
    return {"name": name, "resources": {"limits": {"ephemeral-storage": limit}}}


@pytest.mark.parametrize(
    ("containers", "layers", "excess"),
    [
        pytest.param(["a"], {"a": 9 * KIB}, None, id="no limits"),
        pytest.param([limited("a", "20Ki")], {"a": 9 * KIB}, None, id="within"),
        pytest.param(
            [limited("a", "20Ki"), limited("b", "5Ki")],
            {"a": 1 * KIB, "b": 9 * KIB},
            (CONTAINER_LIMIT, 'Container b exceeded its local ephemeral storage limit "5Ki". '),
            id="one container",
        ),
        pytest.param(
            [limited("a", "5Ki"), limited("b", "5Ki")],
            {"a": 4 * KIB, "b": 9 * KIB},
            (POD_LIMIT, "Pod ephemeral local storage usage exceeds the total limit of containers 10Ki. "),
            id="all together",
        ),
    ],
)
def test_limits_of_containers(tmp_path: Path, containers: list[Any], layers: dict[str, int], excess: Any) -> None:
    pod = make_pod(*containers)
    assert over_limit(pod, Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs"), layers) == excess
    assert has_limits(pod) == (containers != ["a"])


def test_logs_and_volumes_count_for_the_pod(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs")
    pod = make_pod(limited("a", "20Ki"), volumes=[{"name": "v", "emptyDir": {}}])
    for directory, size in ((paths.pod_logs(pod) / "a", 12), (paths.volume("u1", "kubernetes.io/empty-dir", "v"), 12)):
        assert over_limit(pod, paths, {}) is None
        directory.mkdir(parents=True)
        (directory / "f").write_bytes(b"x" * size * KIB)
    message = "Pod ephemeral local storage usage exceeds the total limit of containers 20Ki. "
    assert over_limit(pod, paths, {}) == (POD_LIMIT, message)


def test_a_volume_has_its_own_limit(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs")
    pod = make_pod("a", volumes=[{"name": "v", "emptyDir": {"sizeLimit": "8Ki"}}])
    directory = paths.volume("u1", "kubernetes.io/empty-dir", "v")
    directory.mkdir(parents=True)
    (directory / "f").write_bytes(b"x" * 12 * KIB)
    assert over_limit(pod, paths, {}) == (EMPTY_DIR_LIMIT, 'Usage of EmptyDir volume "v" exceeds the limit "8Ki". ')
