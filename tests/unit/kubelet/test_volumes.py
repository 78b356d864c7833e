"""The atomic writer, host paths, and paths that would leave a volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.kubelet.builders import make_pod
from tiphys.kubelet.volumes.atomic import File, write_atomically
from tiphys.kubelet.volumes.empty_dir import memory_size
from tiphys.kubelet.volumes.host_path import check_host_path
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.kubelet.volumes.subpath import bind_subpath


def test_files_change_together_and_only_when_they_differ(tmp_path: Path) -> None:
    assert write_atomically(tmp_path, {"a": File(b"1"), "dir/b": File(b"2", 0o400)})
    first = os.readlink(tmp_path / "..data")
    assert (tmp_path / "dir/b").read_bytes() == b"2"
    assert (tmp_path / "dir/b").stat().st_mode & 0o777 == 0o400
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert not write_atomically(tmp_path, {"a": File(b"1"), "dir/b": File(b"2", 0o400)})
    assert os.readlink(tmp_path / "..data") == first
    assert write_atomically(tmp_path, {"a": File(b"3")})
    assert (tmp_path / "a").read_bytes() == b"3"
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("..")) == ["a"]
    assert not (tmp_path / first).exists()


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "..data", ""])
def test_a_path_that_leaves_the_volume_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        write_atomically(tmp_path, {path: File(b"")})


def test_host_path_types(tmp_path: Path) -> None:
    check_host_path(tmp_path / "made" / "here", "DirectoryOrCreate")
    assert (tmp_path / "made" / "here").is_dir()
    check_host_path(tmp_path / "file", "FileOrCreate")
    check_host_path(tmp_path / "file", "File")
    check_host_path(tmp_path / "whatever", "")
    with pytest.raises(VolumeError, match=r"hostPath type check failed: .* is not a directory"):
        check_host_path(tmp_path / "file", "Directory")


def test_a_memory_volume_is_no_larger_than_the_pod() -> None:
    pod = make_pod({"name": "app", "resources": {"limits": {"memory": "1Mi"}}})
    assert memory_size(pod, "") == 2**20
    assert memory_size(pod, "2Ki") == 2048
    assert memory_size(make_pod(), "") is None


@pytest.mark.root
def test_a_subpath_cannot_lead_out(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "out").symlink_to("/etc")
    for path in ("out/passwd", "../x", "/etc"):
        with pytest.raises(VolumeError):
            bind_subpath(volume, path, tmp_path / "target")


def test_a_link_put_in_a_subpaths_place_is_not_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container can do between the look at the path and its opening."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "here").symlink_to("/etc")
    monkeypatch.setattr("os.path.realpath", str)  # as it was a moment ago: a directory
    with pytest.raises(VolumeError, match="unexpected symlink found here"):
        bind_subpath(tmp_path / "volume", "here", tmp_path / "target")
