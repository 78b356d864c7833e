"""What the kubelet's server counts of itself: its requests, its process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator

import pytest

from tests.unit.kubelet.exposed import Moved, samples
from tiphys import KUBERNETES_VERSION
from tiphys.base.process_metrics import expose_process
from tiphys.kubelet.server.http import HTTPServer, Request, Response, text
from tiphys.kubelet.server.requests import RequestMetrics

METRICS = RequestMetrics(["metrics", "exec", "portForward", "containerLogs", "pods"])


def request(path: str, method: str = "GET") -> Request:
    return Request(method=method, path=path, query={}, raw_query="", headers={}, head=b"")


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        (request("/pods"), ("false", "GET", "pods", "readwrite")),
        (request("/pods/"), ("false", "GET", "pods", "readwrite")),
        (request("/metrics"), ("false", "GET", "metrics", "readwrite")),
        (request("/metrics/cadvisor"), ("false", "GET", "metrics/cadvisor", "readwrite")),
        (request("/metrics/guess"), ("false", "GET", "other", "readwrite")),
        (request("/containerLogs/ns/pod/c"), ("false", "GET", "containerLogs", "readwrite")),
        (request("/exec/ns/pod/c", "POST"), ("true", "POST", "exec", "readwrite")),
        (request("/portForward/ns/pod", "POST"), ("true", "POST", "portForward", "readwrite")),
        (request("/", "BREW"), ("false", "other", "other", "readwrite")),
    ],
    ids=lambda value: f"{value.method} {value.path}" if isinstance(value, Request) else "",
)
def test_what_a_request_is_counted_as(asked: Request, labels: tuple[str, ...]) -> None:
    assert METRICS.labels(asked) == labels


async def ask(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_request_is_in_flight_until_its_answer_has_gone_out() -> None:
    begun, release, moved = asyncio.Event(), asyncio.Event(), Moved()

    async def lines() -> AsyncGenerator[bytes, None]:
        begun.set()
        yield b"one"
        await release.wait()

    async def handler(request: Request) -> Response:
        return Response(stream=lines()) if request.path.startswith("/containerLogs") else text(404, "no")

    def family(name: str, path: str) -> str:
        return f'kubelet_http_{name}{{long_running="false",method="GET",path="{path}",server_type="readwrite"}}'

    server = HTTPServer(handler, METRICS.observe)
    port = await server.start("127.0.0.1", 0)
    followed = asyncio.ensure_future(ask(port, "/containerLogs/ns/pod/c"))
    assert b"404" in await ask(port, "/nothing")
    assert moved.by(family("requests_duration_seconds_count", "other")) == 1
    await begun.wait()
    assert moved.by(family("inflight_requests", "containerLogs")) == 1
    assert moved.by(family("requests_duration_seconds_count", "containerLogs")) == 0
    release.set()
    assert b"one" in await followed
    assert moved.by(family("inflight_requests", "containerLogs")) == 0
    assert moved.by(family("requests_duration_seconds_count", "containerLogs")) == 1
    assert moved.by(family("requests_total", "containerLogs")) == 1
    await server.close()


def test_the_process_tells_what_it_uses() -> None:
    removers = expose_process()
    first = samples()
    assert 0 < first["process_start_time_seconds"] <= time.time()
    assert first["process_resident_memory_bytes"] > 10_000_000
    assert first["process_virtual_memory_bytes"] > first["process_resident_memory_bytes"]
    with open(os.devnull):
        assert samples()["process_open_fds"] == first["process_open_fds"] + 1
    assert first["process_open_fds"] < first["process_max_fds"]
    spent = time.process_time() + 0.02
    while time.process_time() < spent:
        pass
    later = samples()
    assert later["process_cpu_seconds_total"] - first["process_cpu_seconds_total"] >= 0.02
    assert later["process_start_time_seconds"] == first["process_start_time_seconds"]
    (build,) = [name for name in first if name.startswith("kubernetes_build_info{")]
    assert f'git_version="{KUBERNETES_VERSION}"' in build and 'major="1"' in build
    for remove in removers:
        remove()
    assert "process_open_fds" not in samples()
