"""Limits of local storage: whose are exceeded, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubelet.builders import make_pod
from tiphys.kubelet.eviction.local import has_limits, over_limit
from tiphys.kubelet.paths import Paths

KIB = 1024


def limited(name: str, limit: str) -> dict[str, Any]:
    return {"name": name, "resources": {"limits": {"ephemeral-storage": limit}}}


@pytest.mark.parametrize(
    ("containers", "layers", "message"),
    [
        pytest.param(["a"], {"a": 9 * KIB}, "", id="no limits"),
        pytest.param([limited("a", "20Ki")], {"a": 9 * KIB}, "", id="within"),
        pytest.param(
            [limited("a", "20Ki"), limited("b", "5Ki")],
            {"a": 1 * KIB, "b": 9 * KIB},
            'Container b exceeded its local ephemeral storage limit "5Ki". ',
            id="one container",
        ),
        pytest.param(
            [limited("a", "5Ki"), limited("b", "5Ki")],
            {"a": 4 * KIB, "b": 9 * KIB},
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Ki. ",
            id="all together",
        ),
    ],
)
def test_limits_of_containers(tmp_path: Path, containers: list[Any], layers: dict[str, int], message: str) -> None:
    pod = make_pod(*containers)
    assert over_limit(pod, Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs"), layers) == message
    assert has_limits(pod) == (containers != ["a"])


def test_logs_and_volumes_count_for_the_pod(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs")
    pod = make_pod(limited("a", "20Ki"), volumes=[{"name": "v", "emptyDir": {}}])
    for directory, size in ((paths.pod_logs(pod) / "a", 12), (paths.volume("u1", "kubernetes.io/empty-dir", "v"), 12)):
        assert over_limit(pod, paths, {}) == ""
        directory.mkdir(parents=True)
        (directory / "f").write_bytes(b"x" * size * KIB)
    assert (
        over_limit(pod, paths, {}) == "Pod ephemeral local storage usage exceeds the total limit of containers 20Ki. "
    )


def test_a_volume_has_its_own_limit(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path / "kubelet", logs=tmp_path / "logs")
    pod = make_pod("a", volumes=[{"name": "v", "emptyDir": {"sizeLimit": "8Ki"}}])
    directory = paths.volume("u1", "kubernetes.io/empty-dir", "v")
    directory.mkdir(parents=True)
    (directory / "f").write_bytes(b"x" * 12 * KIB)
    assert over_limit(pod, paths, {}) == 'Usage of EmptyDir volume "v" exceeds the limit "8Ki". '
