"""Layers written out: whiteouts, links, attributes, and archives that mean harm."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.unit.runtime.archives import Entry, digest, pack, tar
from tiphys.runtime.images.layers import LayerError, unpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="devices and overlay attributes need root")


def unpacked(tmp_path: Path, *entries: Entry, lower: tuple[Path, ...] = ()) -> Path:
    archive, directory = tmp_path / "layer.tar", tmp_path / "layer"
    archive.write_bytes(tar(*entries))
    directory.mkdir()
    unpack(archive, directory, lower=lower)
    return directory


def test_files_directories_and_links(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        Entry("etc", kind=tarfile.DIRTYPE, mode=0o750),
        Entry("etc/conf", b"hello", mode=0o4755, uid=7),
        Entry("etc/hard", kind=tarfile.LNKTYPE, link="etc/conf"),
        Entry("etc/soft", kind=tarfile.SYMTYPE, link="/absolute"),
        Entry("deep/er/file", b"x"),
    )
    found = (root / "etc/conf").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_nlink, found.st_mtime) == (0o4755, 7, 2, 1_000_000)
    assert os.readlink(root / "etc/soft") == "/absolute"
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o750
    assert (root / "etc").stat().st_mtime == 1_000_000
    assert (root / "deep/er/file").read_bytes() == b"x"


def test_whiteouts_become_marks_of_overlayfs(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        Entry("dir", kind=tarfile.DIRTYPE, mode=0o755),
        Entry("dir/.wh..wh..opq"),
        Entry(".wh.gone"),
    )
    found = (root / "gone").lstat()
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == 0
    assert os.getxattr(root / "dir", "trusted.overlay.opaque") == b"y"


def test_attributes_are_kept_but_not_overlays_own(tmp_path: Path) -> None:
    headers = (("SCHILY.xattr.user.colour", "blue"), ("SCHILY.xattr.trusted.overlay.redirect", "/etc"))
    root = unpacked(tmp_path, Entry("file", b"x", headers=headers))
    assert os.listxattr(root / "file") == ["user.colour"]


def test_devices(tmp_path: Path) -> None:
    root = unpacked(tmp_path, Entry("null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666))
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)


def test_a_hard_link_to_a_lower_layer_is_copied(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (below / "old").write_text("from below")
    root = unpacked(tmp_path, Entry("new", kind=tarfile.LNKTYPE, link="old"), lower=(below,))
    assert (root / "new").read_text() == "from below"


def test_an_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        Entry("a/b", b"x"),
        Entry("a", kind=tarfile.SYMTYPE, link="elsewhere"),
        Entry("c", kind=tarfile.SYMTYPE, link="elsewhere"),
        Entry("c", kind=tarfile.DIRTYPE, mode=0o755),
        Entry("c/d", b"y"),
    )
    assert os.readlink(root / "a") == "elsewhere"
    assert (root / "c/d").read_bytes() == b"y"


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_packed(tmp_path: Path, how: str) -> None:
    plain = tar(Entry("file", b"x" * 100_000))
    archive, directory = tmp_path / "layer", tmp_path / "out"
    archive.write_bytes(pack(plain, how))
    directory.mkdir()
    assert unpack(archive, directory, diff_id=digest(plain)) == digest(plain)
    assert (directory / "file").stat().st_size == 100_000


HOSTILE = [
    pytest.param([Entry("../escaped", b"x")], id="dots"),
    pytest.param([Entry("a/../../escaped", b"x")], id="dots inside"),
    pytest.param([Entry("/.wh...", b"")], id="whiteout of the parent"),
    pytest.param([Entry("link", kind=tarfile.LNKTYPE, link="../../escaped")], id="hard link out"),
    pytest.param([Entry("link", kind=tarfile.LNKTYPE, link="/etc/passwd")], id="hard link to the machine"),
]


@pytest.mark.parametrize("entries", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, entries: list[Entry]) -> None:
    with pytest.raises(LayerError):
        unpacked(tmp_path, *entries)
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path.parent / "escaped").exists()


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = unpacked(
        tmp_path,
        Entry("way", kind=tarfile.SYMTYPE, link=str(outside)),
        Entry("way/file", b"x"),
        Entry("file", kind=tarfile.SYMTYPE, link=str(outside / "target")),
        Entry("file", b"y"),
    )
    assert list(outside.iterdir()) == []
    assert (root / "file").read_bytes() == b"y"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pack(tar(Entry("f", b"x" * 5000)), "gzip")[:-20], id="cut gzip"),
        pytest.param(pack(tar(Entry("f", b"x" * 5000)), "zstd")[:-9], id="cut zstd"),
        pytest.param(tar(Entry("f", b"x" * 5000))[:2000], id="cut tar"),
        pytest.param(b"\x1f\x8b\x08\0\0\0\0\0\0\0garbage", id="garbage"),
    ],
)
def test_broken_archives(tmp_path: Path, data: bytes) -> None:
    archive, directory = tmp_path / "layer", tmp_path / "out"
    archive.write_bytes(data)
    directory.mkdir()
    with pytest.raises(LayerError):
        unpack(archive, directory, diff_id=digest(tar(Entry("f", b"x" * 5000))))


def test_a_wrong_diff_id(tmp_path: Path) -> None:
    archive, directory = tmp_path / "layer", tmp_path / "out"
    archive.write_bytes(tar(Entry("f")))
    directory.mkdir()
    with pytest.raises(LayerError, match="wrong diff id"):
        unpack(archive, directory, diff_id=f"sha256:{'0' * 64}")
