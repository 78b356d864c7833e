"""Ranges of users for pods: given once, kept on disk, free again with the pod's directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tiphys.kubelet import usernamespaces
from tiphys.kubelet.config import ConfigError, KubeletConfiguration, KubeletFlags
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.usernamespaces import UNIT, IDs, RangesExhaustedError, UserNamespaces, available_ids, parse_subids

FLAGS = KubeletFlags(node_name="node")
A, B, C = PodUID("a"), PodUID("b"), PodUID("c")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "logs")


def test_every_pod_has_its_own_and_keeps_it(paths: Paths) -> None:
    users = UserNamespaces(paths, IDs(UNIT, 2 * UNIT), UNIT)
    assert users.of(A) is None
    assert users.assign(A) == users.assign(A) == IDs(UNIT, UNIT)
    assert users.assign(B) == IDs(2 * UNIT, UNIT)
    with pytest.raises(RangesExhaustedError):
        users.assign(C)
    after = UserNamespaces(paths, IDs(UNIT, 2 * UNIT), UNIT)  # the kubelet, started again
    assert after.of(A) == IDs(UNIT, UNIT)
    with pytest.raises(RangesExhaustedError):
        after.assign(C)
    shutil.rmtree(paths.pod(A))
    assert after.assign(C) == IDs(UNIT, UNIT)


def test_a_range_that_became_free_is_not_given_at_once(paths: Paths) -> None:
    users = UserNamespaces(paths, IDs(UNIT, 3 * UNIT), UNIT)
    users.assign(A)
    shutil.rmtree(paths.pod(A))
    assert [users.assign(uid).first // UNIT for uid in (B, C, A)] == [2, 3, 1]


def test_ranges_of_an_earlier_size_are_not_given_again(paths: Paths) -> None:
    UserNamespaces(paths, IDs(UNIT, 4 * UNIT), UNIT).assign(A)
    larger = UserNamespaces(paths, IDs(UNIT, 4 * UNIT), 2 * UNIT)
    assert larger.assign(B) == IDs(3 * UNIT, 2 * UNIT)
    assert larger.of(A) == IDs(UNIT, UNIT)


def test_a_record_that_cannot_be_read_is_nobodys_to_guess(paths: Paths) -> None:
    users = UserNamespaces(paths, IDs(UNIT, 4 * UNIT), UNIT)
    users.assign(A)
    (paths.pod(A) / "userns").write_text("{}")
    for uid in (A, B):
        with pytest.raises(OSError, match="is no record of a range of users"):
            users.assign(uid)


@pytest.mark.parametrize(
    ("subids", "error"),
    [
        (IDs(UNIT, 110 * UNIT), ""),
        (IDs(100_000, 110 * UNIT), "not at a multiple"),
        (IDs(0, 110 * UNIT), "not at a multiple"),
        (IDs(UNIT, 110 * UNIT + 1), "not a multiple"),
        (IDs(UNIT, 109 * UNIT), "too few for 110 pods"),
        (IDs(2**32 - 2 * UNIT, 110 * UNIT), "not a multiple"),
    ],
)
def test_subordinate_ids_of_the_kubelet(subids: IDs, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usernamespaces, "_subordinate_ids", lambda: subids)
    if not error:
        assert available_ids(KubeletConfiguration(), FLAGS) == subids
        return
    with pytest.raises(ConfigError, match=error):
        available_ids(KubeletConfiguration(), FLAGS)


def test_without_subordinate_ids_pods_get_those_after_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usernamespaces, "_subordinate_ids", lambda: None)
    assert available_ids(KubeletConfiguration(), FLAGS) == IDs(UNIT, 110 * UNIT)
    config = KubeletConfiguration.from_dict({"userNamespaces": {"idsPerPod": 2 * UNIT}, "maxPods": 10})
    assert available_ids(config, FLAGS) == IDs(UNIT, 20 * UNIT)
    with pytest.raises(ConfigError, match="idsPerPod"):
        available_ids(KubeletConfiguration(ids_per_pod=1000), FLAGS)


def test_nodes_of_one_machine_have_each_its_own() -> None:
    flags = KubeletFlags(node_name="node", subordinate_ids=(111 * UNIT, 110 * UNIT))
    assert available_ids(KubeletConfiguration(), flags) == IDs(111 * UNIT, 110 * UNIT)


def test_what_getsubids_prints() -> None:
    assert parse_subids("0: kubelet 65536 7208960\n") == [IDs(65536, 7208960)]
    with pytest.raises(ConfigError):
        parse_subids("odd\n")
