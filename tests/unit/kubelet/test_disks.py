"""Devices become file systems only where there is nothing yet, and grow with their devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiphys.kubelet.disks import DiskError, file_system_of, grow_file_system, is_block_device, mount_device
from tiphys.kubelet.mounts import is_mount, unmount

pytestmark = pytest.mark.root


def loop(*arguments: str) -> str:
    return subprocess.run(["losetup", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "disk"
    with file.open("wb") as made:
        made.truncate(16 << 20)
    path = Path(loop("-f", "--show", str(file)))
    yield path
    loop("-d", str(path))


def test_an_empty_device_is_formatted_once_and_its_data_kept(device: Path, tmp_path: Path) -> None:
    target = tmp_path / "mounted"
    assert is_block_device(device)
    assert not is_block_device(tmp_path)
    assert file_system_of(device) == ""
    with pytest.raises(DiskError, match="unformatted"):
        mount_device(device, target, kind="", read_only=True)
    mount_device(device, target, kind="")
    try:
        (target / "kept").write_text("x")
        unmount(target)
        assert file_system_of(device) == "ext4"
        mount_device(device, target, kind="xfs", options=("noatime",))
        assert is_mount(target)
        assert (target / "kept").read_text() == "x"
    finally:
        unmount(target)


def may_resize() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, which the kernel wants for growing a mounted ext4."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return bool(int(fields["CapEff"], 16) >> 24 & 1)


@pytest.mark.skipif(not may_resize(), reason="growing a mounted file system needs CAP_SYS_RESOURCE")
def test_a_file_system_fills_the_device_that_grew(device: Path, tmp_path: Path) -> None:
    target = tmp_path / "mounted"
    mount_device(device, target, kind="ext4")
    try:
        before = os.statvfs(target).f_blocks
        os.truncate(tmp_path / "disk", 32 << 20)
        loop("-c", str(device))
        grow_file_system(device, target)
        assert os.statvfs(target).f_blocks > before * 1.5
    finally:
        unmount(target)


def test_a_partitioned_device_is_left_alone(device: Path, tmp_path: Path) -> None:
    table = bytearray(512)
    table[446:462] = bytes([0, 0, 2, 0, 0x83, 0, 3, 0, 1, 0, 0, 0, 100, 0, 0, 0])
    table[510:] = b"\x55\xaa"
    device.write_bytes(bytes(table))
    with pytest.raises(DiskError, match="partition table"):
        mount_device(device, tmp_path / "mounted", kind="")
