"""Calls to a runtime are counted and timed, also those that fail; a runtime that answers is real gRPC here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.unit.kubelet.builders import START, make_pod
from tests.unit.kubelet.exposed import Moved, samples
from tiphys.api.cri import api_pb2 as cri
from tiphys.api.cri import api_pb2_grpc
from tiphys.base.clock import FakeClock
from tiphys.kubelet.containers.errors import StartError
from tiphys.kubelet.containers.images import ImageManager, size_range
from tiphys.kubelet.cri.client import CRIClient, CRIError
from tiphys.kubelet.pleg import LifecycleEvents

MIB = 1024 * 1024


class Runtime(api_pb2_grpc.RuntimeServiceServicer):
    """Has no sandboxes and no containers; `down` refuses to tell."""

    down = False

    async def ListPodSandbox(self, request: Any, context: Any) -> Any:
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        return cri.ListPodSandboxResponse()

    async def ListContainers(self, request: Any, context: Any) -> Any:
        return cri.ListContainersResponse()

    async def StopContainer(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")


class Images(api_pb2_grpc.ImageServiceServicer):
    """Pulls `there`, and takes as long on `clock` as it says; has nothing else."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.pulled: set[str] = set()

    async def ImageStatus(self, request: Any, context: Any) -> Any:
        if request.image.image not in self.pulled:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(image=cri.Image(id="sha256:1", size=200 * MIB))

    async def PullImage(self, request: Any, context: Any) -> Any:
        await self.clock.advance(7.0)
        if "there" not in request.image.image:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such image")
        self.pulled.add(request.image.image)
        return cri.PullImageResponse(image_ref=request.image.image)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(START)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
async def client(tmp_path: Path, clock: FakeClock, runtime: Runtime) -> AsyncIterator[CRIClient]:
    server = grpc.aio.server()
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime, server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(Images(clock), server)
    endpoint = f"unix://{tmp_path}/cri.sock"
    server.add_insecure_port(endpoint)
    await server.start()
    found = CRIClient(endpoint)
    yield found
    await found.close()
    await server.stop(None)


def operation(name: str, of: str) -> str:
    return f'kubelet_runtime_operations_{name}{{operation_type="{of}"}}'


async def test_calls_are_counted_by_what_they_ask_for(client: CRIClient) -> None:
    moved = Moved()
    await client.snapshot()
    await client.stop_container("gone", 1.0)  # which is fine, and still an error of the runtime's
    with pytest.raises(CRIError):
        await client.version()
    for of in ("list_podsandbox", "list_containers", "stop_container", "version"):
        assert moved.by(operation("total", of)) == 1
        assert moved.by(operation("duration_seconds_count", of)) == 1
    assert moved.by(operation("errors_total", "stop_container")) == 1
    assert moved.by(operation("errors_total", "version")) == 1
    assert moved.by(operation("errors_total", "list_containers")) == 0
    bounds = [
        name.partition('le="')[2].rstrip('"}') for name in samples() if operation("", "x").partition("{")[0] in name
    ]
    assert {"0.005", "0.0125", "745.0580596923828"} <= set(bounds)


async def test_pulls_are_timed_by_size_and_known_of_the_pod(client: CRIClient, clock: FakeClock) -> None:
    images = ImageManager(client, clock)
    pod, config = make_pod(), cri.PodSandboxConfig()
    moved = Moved()
    await images.ensure(pod, "there", "IfNotPresent", [], config, lambda *_: None)
    await images.ensure(pod, "there", "IfNotPresent", [], config, lambda *_: None)  # nothing to pull
    labels = 'image_size_in_bytes="100MB-500MB"'
    assert moved.by(f"kubelet_image_pull_duration_seconds_count{{{labels}}}") == 1
    assert moved.by(f"kubelet_image_pull_duration_seconds_sum{{{labels}}}") == 7
    assert images.pulling("u1") == 7
    with pytest.raises(StartError):
        await images.ensure(pod, "missing", "IfNotPresent", [], config, lambda *_: None)
    assert moved.by(operation("errors_total", "pull_image")) == 1
    assert moved.by(f"kubelet_image_pull_duration_seconds_count{{{labels}}}") == 1
    assert images.pulling("u1") == 14
    images.forget_pod("u1")
    assert images.pulling("u1") == 0


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "0-10MB"), (10 * MIB, "10MB-100MB"), (1024 * MIB, "1GB-5GB"), (200 * 1024 * MIB, "GT100GB")],
)
def test_ranges_of_sizes(size: int, name: str) -> None:
    assert size_range(size) == name


async def test_relists_are_timed_and_the_last_one_that_worked_is_told(
    client: CRIClient, clock: FakeClock, runtime: Runtime
) -> None:
    events = LifecycleEvents(client, clock, lambda uid: None)
    moved = Moved()
    await events.relist()
    await clock.advance(3.0)
    await events.relist()
    seen = clock.now().timestamp()
    assert samples()["kubelet_pleg_last_seen_seconds"] == seen
    assert moved.by("kubelet_pleg_relist_interval_seconds_count") == 1
    assert moved.by("kubelet_pleg_relist_interval_seconds_sum") == 3
    await clock.advance(3.0)
    runtime.down = True
    with pytest.raises(CRIError):
        await events.relist()
    assert moved.by("kubelet_pleg_relist_duration_seconds_count") == 3
    assert samples()["kubelet_pleg_last_seen_seconds"] == seen
