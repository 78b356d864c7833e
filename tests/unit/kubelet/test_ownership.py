"""fsGroup on volumes: who owns what is below their root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tiphys.kubelet.volumes.ownership import give_to_group

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another group")


def test_everything_below_is_given_to_the_group_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    root = tmp_path / "v"
    (root / "d").mkdir(parents=True)
    file = root / "d" / "f"
    file.write_text("x")
    file.chmod(0o600)
    (root / "link").symlink_to(outside)
    give_to_group(root, 2000, lazily=False)
    assert [path.lstat().st_gid for path in (root, root / "d", file, root / "link")] == [2000] * 4
    assert stat.S_IMODE(file.stat().st_mode) == 0o660
    assert stat.S_IMODE((root / "d").stat().st_mode) & 0o2770 == 0o2770
    assert (outside.stat().st_gid, stat.S_IMODE(outside.stat().st_mode)) == (os.getgid(), 0o600)


def test_a_root_that_looks_done_is_left_alone_where_that_is_asked_for(tmp_path: Path) -> None:
    give_to_group(tmp_path, 2000, lazily=True)
    file = tmp_path / "f"
    file.write_text("x")
    os.chown(file, -1, os.getgid())
    give_to_group(tmp_path, 2000, lazily=True)
    assert file.stat().st_gid == os.getgid()
    give_to_group(tmp_path, 2000, lazily=False)
    assert file.stat().st_gid == 2000
