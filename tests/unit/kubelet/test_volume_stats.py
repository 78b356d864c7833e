"""What /stats/summary says of volumes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kubelet.builders import make_pod
from tests.unit.kubelet.exposed import samples
from tiphys.api.csi import csi_pb2 as csi
from tiphys.kubelet.csi.request import usage_of
from tiphys.kubelet.server import volumestats
from tiphys.kubelet.server.volumestats import VolumeStats
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
    volumes = VolumeStats(measure)
    ((scratch, disk), none) = await volumes.of_pods([(POD, mounted), (make_pod(), {})])
    assert none == []
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
    await volumes.close()


async def test_claims_are_series_of_their_own(tmp_path: Path) -> None:
    asked: list[Path] = []

    async def measure(path: Path) -> Usage | None:
        asked.append(path)
        return Usage(capacity=1000, used=400, available=600) if path == Path("/csi") else None

    shared = make_pod(volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}])
    own = make_pod(volumes=[{"name": "e", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}])
    mounted = {"scratch": Mounted(path=tmp_path), "disk": Mounted(path=Path("/csi")), "raw": Mounted(path=Path("/d"))}
    pods = [(POD, mounted), (shared, {"d": Mounted(path=Path("/csi"))}), (own, {"e": Mounted(path=tmp_path)})]
    claims = VolumeStats(measure)
    found = samples(await claims.exposition(pods))
    of = 'namespace="default",persistentvolumeclaim='
    assert found[f'kubelet_volume_stats_capacity_bytes{{{of}"c"}}'] == 1000
    assert found[f'kubelet_volume_stats_available_bytes{{{of}"c"}}'] == 600
    assert found[f'kubelet_volume_stats_used_bytes{{{of}"c"}}'] == 400
    assert f'kubelet_volume_stats_inodes{{{of}"c"}}' not in found  # its driver does not say
    inodes, used, free = (
        found[f'kubelet_volume_stats_{n}{{{of}"web-e"}}'] for n in ("inodes", "inodes_used", "inodes_free")
    )
    assert inodes == used + free
    assert len(found) == 3 + 6
    assert asked == [Path("/csi"), Path("/d"), tmp_path]  # no volumes but claims, and each once
    assert await claims.exposition([(POD, {"scratch": Mounted(path=tmp_path)})]) == b""
    await claims.close()


async def test_a_claim_that_does_not_answer_is_left_out_and_asked_once() -> None:
    asked: list[Path] = []

    async def measure(path: Path) -> Usage | None:
        asked.append(path)
        if path == Path("/stuck"):
            await asyncio.Event().wait()
        if path == Path("/broken"):
            raise RuntimeError("the driver has gone")
        return Usage(capacity=1000)

    claims = VolumeStats(measure, patience=0.01)
    pods = [(POD, {"disk": Mounted(path=Path("/stuck")), "raw": Mounted(path=Path("/d"))})]
    broken = make_pod(volumes=[{"name": "b", "persistentVolumeClaim": {"claimName": "b"}}])
    pods.append((broken, {"b": Mounted(path=Path("/broken"))}))
    for _ in range(3):
        found = samples(await claims.exposition(pods))
        assert list(found) == ['kubelet_volume_stats_capacity_bytes{namespace="default",persistentvolumeclaim="r"}']
        (entries, none) = await claims.of_pods(pods)
        assert [entry["name"] for entry in entries] == ["raw"]
        assert none == []
    assert asked.count(Path("/stuck")) == 1
    await claims.close()


async def test_two_who_ask_at_once_both_hear() -> None:
    asked: list[Path] = []

    async def measure(path: Path) -> Usage | None:
        asked.append(path)
        await asyncio.sleep(0.01)
        return Usage(capacity=1000)

    claims = VolumeStats(measure)
    pods = [(POD, {"disk": Mounted(path=Path("/csi"))})]
    ((entry,),), exposed = await asyncio.gather(claims.of_pods(pods), claims.exposition(pods))
    assert entry["capacityBytes"] == 1000
    assert list(samples(exposed).values()) == [1000]
    assert asked == [Path("/csi")]
    await claims.close()


async def test_file_systems_that_are_stuck_keep_no_more_than_the_threads_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, begun = threading.Event(), []

    def hanging(path: Path) -> dict[str, Any]:
        begun.append(path)
        stuck.wait()
        return {}

    async def nobody(path: Path) -> Usage | None:
        return None

    monkeypatch.setattr(volumestats, "file_system", hanging)
    volumes = VolumeStats(nobody, patience=0.05)
    names = [f"v{number}" for number in range(volumestats.THREADS * 3)]
    pod = make_pod(volumes=[{"name": name, "emptyDir": {}} for name in names])
    mounted = {name: Mounted(path=tmp_path / name) for name in names}
    try:
        for _ in range(3):
            assert await volumes.of_pods([(pod, mounted)]) == [[]]
        assert len(begun) == volumestats.THREADS
        assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        stuck.set()
        await volumes.close()


def test_a_driver_says_what_it_measured() -> None:
    size = csi.VolumeUsage(total=10, used=4, available=6, unit=csi.VolumeUsage.BYTES)
    inodes = csi.VolumeUsage(total=100, used=1, available=99, unit=csi.VolumeUsage.INODES)
    answer = csi.NodeGetVolumeStatsResponse(usage=[inodes, size])
    assert usage_of(answer) == Usage(capacity=10, used=4, available=6, inodes=100, inodes_used=1, inodes_free=99)
    assert usage_of(csi.NodeGetVolumeStatsResponse()) == Usage()
