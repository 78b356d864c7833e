"""What /stats/summary says of volumes."""

from __future__ import annotations

from pathlib import Path

from tests.unit.kubelet.builders import make_pod
from tiphys.api.csi import csi_pb2 as csi
from tiphys.kubelet.csi.request import usage_of
from tiphys.kubelet.server.volumestats import volume_stats
from tiphys.kubelet.volumes.plugin import Mounted, Usage

POD = make_pod(
    volumes=[
        {"name": "scratch", "emptyDir": {}},
        {"name": "node", "hostPath": {"path": "/"}},
        {"name": "disk", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "raw", "persistentVolumeClaim": {"claimName": "r"}},
        {"name": "late", "emptyDir": {}},
    ]
)


async def test_drivers_are_asked_and_file_systems_counted(tmp_path: Path) -> None:
    async def measure(path: Path) -> Usage | None:
        return Usage(capacity=1000, used=400) if path == Path("/csi") else None

    mounted = {
        "scratch": Mounted(path=tmp_path),
        "node": Mounted(path=Path("/")),
        "disk": Mounted(path=Path("/csi")),
        "raw": Mounted(path=Path("/dev/null"), device=True),
    }
    scratch, disk = await volume_stats(POD, mounted, measure)
    assert scratch["name"] == "scratch"
    assert scratch["capacityBytes"] >= scratch["usedBytes"] > 0
    assert "pvcRef" not in scratch
    assert disk.pop("time")
    assert disk == {
        "name": "disk",
        "capacityBytes": 1000,
        "usedBytes": 400,
        "pvcRef": {"name": "c", "namespace": "default"},
    }


def test_a_driver_says_what_it_measured() -> None:
    size = csi.VolumeUsage(total=10, used=4, available=6, unit=csi.VolumeUsage.BYTES)
    inodes = csi.VolumeUsage(total=100, used=1, available=99, unit=csi.VolumeUsage.INODES)
    answer = csi.NodeGetVolumeStatsResponse(usage=[inodes, size])
    assert usage_of(answer) == Usage(capacity=10, used=4, available=6, inodes=100, inodes_used=1, inodes_free=99)
    assert usage_of(csi.NodeGetVolumeStatsResponse()) == Usage()
