"""Evictions are counted by what called for them, each once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.kubelet.builders import START, container, make_pod, make_runtime
from tests.unit.kubelet.exposed import Moved
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.clock import FakeClock
from tiphys.kubelet.config import KubeletConfiguration
from tiphys.kubelet.eviction.manager import EvictionManager
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import PodUID
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.pods.worker import PodWorker


class Hurried(FakeClock):
    """Sleeps no longer than others need to have their turn."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Runtime:
    """Measures nothing."""

    async def image_fs(self) -> cri.ImageFsInfoResponse:
        return cri.ImageFsInfoResponse()

    async def pod_stats(self) -> list[cri.PodSandboxStats]:
        return []


@pytest.mark.parametrize(
    ("hard", "limit", "signal"),
    [
        ({"memory.available": "100%"}, "1Gi", "memory.available"),
        ({}, "4Ki", "emptydirfs.limit"),
    ],
    ids=["pressure on the node", "a limit of the pod"],
)
async def test_an_eviction_is_counted_once(tmp_path: Path, hard: dict[str, str], limit: str, signal: str) -> None:
    events: asyncio.Queue[str] = asyncio.Queue()
    clock, paths = Hurried(START), Paths(tmp_path / "kubelet", tmp_path / "logs")
    services: Any = SimpleNamespace(
        clock=clock,
        config=KubeletConfiguration(eviction_hard=hard),
        flags=SimpleNamespace(root_dir=tmp_path),
        paths=paths,
        runtime=Runtime(),
        event=lambda pod, kind, reason, message: events.put_nowait(reason),
    )
    pod = make_pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": limit}}])
    directory = paths.volume(PodUID("u1"), "kubernetes.io/empty-dir", "v")
    directory.mkdir(parents=True)
    (directory / "f").write_bytes(b"x" * 64 * 1024)
    worker = PodWorker(cast("PodServices", services), pod)
    worker.runtime = make_runtime(pod, container(pod, "app"))
    node: Any = SimpleNamespace(workers={worker.uid: worker}, active=lambda: [pod])
    eviction = EvictionManager(cast("PodServices", services), cast("PodManager", node))
    moved = Moved()
    watching = asyncio.ensure_future(eviction.run())
    assert [await events.get() for _ in range(3)] == ["Evicted"] * 3  # it has not ended yet, and is still over
    watching.cancel()
    await asyncio.wait({watching})
    assert moved.by(f'kubelet_evictions{{eviction_signal="{signal}"}}') == 1
