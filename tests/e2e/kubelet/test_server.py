"""The kubelet's server: logs, exec, attach, documents and measurements, over TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.e2e.kubelet.node import TestNode, eventually
from tests.e2e.kubelet.test_pod import busybox

pytestmark = pytest.mark.root


@pytest.fixture
async def http(node: TestNode) -> AsyncIterator[aiohttp.ClientSession]:
    assert node.kubelet is not None and node.kubelet.server is not None
    await node.kubelet.server.ready.wait()
    admin = node.pki.directory / "admin"
    base = f"https://127.0.0.1:{node.kubelet.server.port}"
    tls = unverified()
    tls.load_cert_chain(admin.with_suffix(".crt"), admin.with_suffix(".key"))
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=tls)) as session:
        yield session


def unverified() -> ssl.SSLContext:
    """The kubelet signs its own certificate here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def text(http: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with http.get(path) as answer:
        return answer.status, await answer.text()


async def test_logs_as_kubectl_asks_for_them(node: TestNode, http: aiohttp.ClientSession) -> None:
    script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; exec sleep 1000"
    await node.create("talks", {"containers": [busybox("app", "sh", "-c", script)]})
    await node.running("talks")
    path = "/containerLogs/default/talks/app"

    async def complete() -> bool:
        return "oops" in (await text(http, path))[1]

    await eventually(complete, "the log")
    assert sorted((await text(http, path))[1].splitlines()) == ["line 1", "line 2", "line 3", "oops"]
    assert len((await text(http, f"{path}?tailLines=2"))[1].splitlines()) == 2
    assert (await text(http, f"{path}?limitBytes=6"))[1] in ("line 1", "oops\nl")
    stamped = (await text(http, f"{path}?timestamps=true&tailLines=1"))[1]
    assert stamped[:2] == "20" and stamped[10] == "T"
    assert (await text(http, f"{path}?previous=true")) == (
        400,
        'previous terminated container "app" in pod "talks" not found',
    )
    assert (await text(http, "/containerLogs/default/nobody/app"))[0] == 404


async def test_a_followed_log_ends_with_its_container(node: TestNode, http: aiohttp.ClientSession) -> None:
    await node.create(
        "ends",
        {
            "restartPolicy": "Never",
            "containers": [busybox("app", "sh", "-c", "echo a; sleep 1; echo b; sleep 1; echo -n c")],
        },
    )
    await node.running("ends")
    async with asyncio.timeout(20), http.get("/containerLogs/default/ends/app?follow=true") as answer:
        assert (await answer.read()).decode().split() == ["a", "b", "c"]


async def test_exec_over_websocket(node: TestNode, http: aiohttp.ClientSession) -> None:
    await node.create("shell", {"containers": [busybox()]})
    await node.running("shell")
    path = (
        "/exec/default/shell/app?command=sh&command=-c&command=echo%20out;echo%20err%20>%262;exit%203&output=1&error=1"
    )
    async with asyncio.timeout(20), http.ws_connect(path, protocols=("v4.channel.k8s.io",)) as channel:
        received: dict[int, bytes] = {}
        async for message in channel:
            received[message.data[0]] = received.get(message.data[0], b"") + message.data[1:]
    assert received[1] == b"out\n"
    assert received[2] == b"err\n"
    status = json.loads(received[3])
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")


def families(exposed: str) -> dict[str, list[str]]:
    """The labels of every series, by metric."""
    found: dict[str, list[str]] = {}
    for line in exposed.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            found.setdefault(name, []).append(rest.rpartition("}")[0])
    return found


async def test_documents_and_measurements(node: TestNode, http: aiohttp.ClientSession) -> None:
    await node.create("measured", {"containers": [busybox()]})
    await node.running("measured")
    assert await text(http, "/healthz") == (200, "ok")
    pods = json.loads((await text(http, "/pods"))[1])
    assert [pod["metadata"]["name"] for pod in pods["items"]] == ["measured"]
    assert pods["items"][0]["status"]["phase"] == "Running"
    config = json.loads((await text(http, "/configz"))[1])
    assert config["kubeletconfig"]["clusterDomain"] == "cluster.local"
    stats = json.loads((await text(http, "/stats/summary"))[1])
    assert stats["node"]["nodeName"] == "node-1"
    assert stats["node"]["memory"]["workingSetBytes"] > 0
    assert [pod["podRef"]["name"] for pod in stats["pods"]] == ["measured"]
    assert [container["name"] for container in stats["pods"][0]["containers"]] == ["app"]
    metrics = (await text(http, "/metrics/resource"))[1]
    assert 'container_memory_working_set_bytes{container="app",namespace="default",pod="measured"}' in metrics
    found = families((await text(http, "/metrics/cadvisor"))[1])
    of_container = [labels for labels in found["container_memory_working_set_bytes"] if 'container="app"' in labels]
    assert len(of_container) == 1 and 'namespace="default",pod="measured"' in of_container[0]
    assert len(found["container_cpu_usage_seconds_total"]) == 2  # the container, and the pod as a whole
    assert (await text(http, "/nothing"))[0] == 404


async def test_the_kubelets_own_metrics_move_with_what_happens(node: TestNode, http: aiohttp.ClientSession) -> None:
    async def scrape() -> dict[str, float]:
        exposed = (await text(http, "/metrics"))[1]
        lines = (line.rpartition(" ") for line in exposed.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    before = await scrape()
    volumes = [{"name": "scratch", "emptyDir": {}}]
    died = {"restartPolicy": "Never", "containers": [busybox("app", "sh", "-c", "sleep 1; exit 3")]}
    missing = {"name": "app", "image": "registry.invalid/missing:1", "imagePullPolicy": "IfNotPresent"}
    await node.create("measured", {"containers": [busybox()], "volumes": volumes})
    await node.create("died", died)
    await node.create("missing", {"containers": [missing]})
    await node.running("measured")
    await node.phase("died", "Failed")
    await node.event("missing", "Failed")
    kill = 'kubelet_pod_worker_duration_seconds_count{operation_type="kill"}'

    async def ended() -> bool:
        return (await scrape()).get(kill, 0.0) > before.get(kill, 0.0)

    await eventually(ended, "the end of the pod that died")
    after = await scrape()

    def moved(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert after['kubelet_node_name{node="node-1"}'] == 1
    assert after["kubelet_running_pods"] == 2
    assert after['kubelet_running_containers{container_state="running"}'] == 1
    assert after['kubelet_desired_pods{static=""}'] == 3
    assert after['kubelet_active_pods{static=""}'] == 2
    assert moved("kubelet_started_pods_total") == 3
    assert moved('kubelet_started_containers_total{container_type="container"}') >= 3
    failed = 'kubelet_started_containers_errors_total{code="ErrImagePull",container_type="container"}'
    assert moved(failed) >= 1
    assert moved('kubelet_runtime_operations_errors_total{operation_type="pull_image"}') >= 1
    assert moved('kubelet_runtime_operations_total{operation_type="run_podsandbox"}') == 3
    assert moved("kubelet_pod_worker_start_duration_seconds_count") == 3
    assert moved('kubelet_pod_worker_duration_seconds_count{operation_type="create"}') == 3
    assert moved("kubelet_pod_start_duration_seconds_count") == 2
    assert moved("kubelet_pod_start_sli_duration_seconds_count") >= 1
    emptied = 'plugin_name="kubernetes.io/empty-dir"'
    assert after[f'volume_manager_total_volumes{{{emptied},state="actual_state_of_world"}}'] == 1
    of = 'long_running="false",method="GET",path="metrics",server_type="readwrite"'
    assert after[f"kubelet_http_requests_total{{{of}}}"] >= 2
    assert after[f"kubelet_http_inflight_requests{{{of}}}"] == 1
    assert moved("process_cpu_seconds_total") > 0


async def test_only_those_who_may_are_answered(node: TestNode, http: aiohttp.ClientSession) -> None:
    assert node.kubelet is not None and node.kubelet.server is not None
    base = f"https://127.0.0.1:{node.kubelet.server.port}"
    stranger = node.pki.client("stranger", "stranger", ["people"])
    tls = unverified()
    tls.load_cert_chain(stranger.with_suffix(".crt"), stranger.with_suffix(".key"))
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=tls)) as session:
        status, words = await text(session, "/pods")
        assert status == 403
        assert words == "Forbidden (user=stranger, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(ssl=unverified())) as session:
        assert await text(session, "/pods") == (401, "Unauthorized")
        nobody = {"Authorization": "Bearer nonsense"}
        async with session.get("/pods", headers=nobody) as answer:
            assert answer.status == 401
