"""Which cgroup interface this machine has."""

from __future__ import annotations

from pathlib import Path

from tiphys.kubelet.cgroups.tree import MOUNT, CgroupDriver
from tiphys.kubelet.cgroups.v1 import CgroupV1
from tiphys.kubelet.cgroups.v2 import CgroupV2


def detect_driver(mount: Path = MOUNT) -> CgroupDriver:
    """v2 where the hierarchy at `mount` is the unified one, v1 otherwise (also where both are there)."""
    return CgroupV2(mount) if (mount / "cgroup.controllers").exists() else CgroupV1()
