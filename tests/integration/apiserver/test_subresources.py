"""Subresources: scale, status, eviction, and the connections to kubelets, pods and services."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.apiserver.server import PODS, Api, api_server, pod
from tiphys.apiserver.pki import Pki

DEPLOYMENTS = "/apis/apps/v1/namespaces/d/deployments"
SERVICES = "/api/v1/namespaces/d/services"
BUDGETS = "/apis/policy/v1/namespaces/d/poddisruptionbudgets"


def deployment(name: str) -> dict[str, object]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "img"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}


async def test_a_scale_is_a_view_of_its_workload(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("x"))
    scale = await api.get(f"{DEPLOYMENTS}/x/scale")
    assert (scale["kind"], scale["spec"], scale["status"]) == (
        "Scale",
        {"replicas": 1},
        {"replicas": 0, "selector": "a=b"},
    )
    await api.merge(f"{DEPLOYMENTS}/x/scale", {"spec": {"replicas": 4}})
    found = await api.get(f"{DEPLOYMENTS}/x")
    assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (4, 2)
    refused = await api.merge(f"{DEPLOYMENTS}/x/scale", {"spec": {"replicas": -1}})
    assert refused["message"].startswith('Scale.autoscaling "x" is invalid: spec.replicas: Invalid value: -1')


async def test_status_and_spec_are_written_apart(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment("x"))
    await api.merge(f"{DEPLOYMENTS}/x/status", {"status": {"replicas": 2}, "spec": {"replicas": 9}})
    await api.merge(f"{DEPLOYMENTS}/x", {"status": {"replicas": 7}, "spec": {"minReadySeconds": 3}})
    found = await api.get(f"{DEPLOYMENTS}/x")
    assert (found["status"]["replicas"], found["spec"]["replicas"], found["spec"]["minReadySeconds"]) == (2, 1, 3)
    assert found["metadata"]["generation"] == 2


async def test_a_negative_grace_period_is_the_shortest(api: Api) -> None:
    made = await api.post(PODS, pod("p", terminationGracePeriodSeconds=-1))
    assert made["spec"]["terminationGracePeriodSeconds"] == 1
    changed = await api.merge(f"{PODS}/p", {"spec": {"terminationGracePeriodSeconds": -1}})
    assert changed["spec"]["terminationGracePeriodSeconds"] == 1


async def test_an_eviction_is_counted_against_the_budget(api: Api) -> None:
    for name in ("one", "two"):
        body = pod(name, nodeName="n")
        body["metadata"]["labels"] = {"a": "b"}
        await api.post(PODS, body)
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await api.merge(f"{PODS}/{name}/status", {"status": ready})
    await api.post(
        BUDGETS, {"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "maxUnavailable": 1}}
    )
    counted = {
        "observedGeneration": 1,
        "disruptionsAllowed": 1,
        "currentHealthy": 2,
        "desiredHealthy": 1,
        "expectedPods": 2,
    }
    await api.merge(f"{BUDGETS}/b/status", {"status": counted})
    await api.post(f"{PODS}/one/eviction", {"metadata": {"name": "one"}})
    assert api.status == 201
    gone = await api.get(f"{PODS}/one")
    assert gone["metadata"]["deletionTimestamp"]
    assert any(one["type"] == "DisruptionTarget" for one in gone["status"]["conditions"])
    assert (await api.get(f"{BUDGETS}/b"))["status"]["disruptionsAllowed"] == 0
    refused = await api.post(f"{PODS}/two/eviction", {"metadata": {"name": "two"}})
    assert (api.status, refused["reason"]) == (429, "TooManyRequests")
    assert refused["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    assert (
        refused["details"]["causes"][0]["message"] == "The disruption budget b needs 1 healthy pods and has 2 currently"
    )


async def test_a_namespace_goes_when_nothing_holds_it(api: Api) -> None:
    await api.post("/api/v1/namespaces", {"metadata": {"name": "ns"}})
    marked = await api.delete("/api/v1/namespaces/ns")
    assert marked["status"]["phase"] == "Terminating"
    body = {"metadata": {"name": "ns"}, "spec": {"finalizers": []}}
    await api.put("/api/v1/namespaces/ns/finalize", body)
    assert (await api.get("/api/v1/namespaces/ns"))["code"] == 404


# --- connections -----------------------------------------------------------------------------------


@dataclass
class Kubelet:
    """An HTTPS server that records what it is asked and answers like a kubelet would."""

    port: int = 0
    asked: list[str] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split("\r\n")[0])
        certificate = writer.get_extra_info("peercert") or {}
        self.clients.append(str(certificate.get("subject")))
        assert "authorization" not in head.lower()
        if "Upgrade: SPDY/3.1" in head:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\nhello ")
            while data := await reader.read(100):
                writer.write(data.upper())
                if data.endswith(b"!"):
                    break
        elif "/d/waits/" in head:
            text = b'container "c" in pod "waits" is waiting to start: ContainerCreating'
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))
        elif "/missing/" in head:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n")
            for line in (b"first\n", b"second\n"):
                writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def kubelet_and_api(path: Path) -> AsyncIterator[tuple[Kubelet, Api]]:
    pki = Pki(path)
    serving = pki.server("kubelet", "system:node:n", ["127.0.0.1"])
    client = pki.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(serving.with_suffix(".crt"), serving.with_suffix(".key"))
    tls.load_verify_locations(path / "ca.crt")
    tls.verify_mode = ssl.CERT_REQUIRED
    kubelet = Kubelet()
    listening = await asyncio.start_server(kubelet.serve, "127.0.0.1", 0, ssl=tls)
    kubelet.port = listening.sockets[0].getsockname()[1]
    options = {
        "kubelet_client_certificate": client.with_suffix(".crt"),
        "kubelet_client_key": client.with_suffix(".key"),
        "kubelet_ca": path / "ca.crt",
    }
    async with api_server(**options) as api:
        await api.post("/api/v1/nodes", {"metadata": {"name": "n"}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
        }
        await api.merge("/api/v1/nodes/n/status", {"status": status})
        await api.post(PODS, pod("p", nodeName="n"))
        yield kubelet, api
    listening.close()
    await listening.wait_closed()


async def test_logs_come_from_the_kubelet(tmp_path: Path) -> None:
    async with kubelet_and_api(tmp_path) as (kubelet, api):
        text = await api.raw("GET", f"{PODS}/p/log?follow=true&tailLines=5&pretty=1", Authorization="Bearer secret")
        assert text == b"first\nsecond\n"
        assert api.headers["Content-Type"] == "text/plain"
        assert kubelet.asked == ["GET /containerLogs/d/p/c?follow=true&tailLines=5 HTTP/1.1"]
        assert "kube-apiserver-kubelet-client" in kubelet.clients[0]
        refused = await api.get(f"{PODS}/p/log?container=x")
        assert refused["message"] == "container x is not valid for pod p"
        await api.post(PODS, pod("waits", nodeName="n"))
        waiting = await api.get(f"{PODS}/waits/log")
        assert (waiting["reason"], waiting["code"]) == ("BadRequest", 400)
        assert waiting["message"] == 'container "c" in pod "waits" is waiting to start: ContainerCreating'


@pytest.mark.parametrize(
    ("asked", "chosen", "message"),
    [("", "", b"\x82"), ("binary.k8s.io", "binary.k8s.io", b"\x82"), ("base64.binary.k8s.io", "base64", b"\x81")],
    ids=["no-subprotocol", "binary", "base64"],
)
async def test_a_log_is_read_over_a_websocket(tmp_path: Path, asked: str, chosen: str, message: bytes) -> None:
    async with kubelet_and_api(tmp_path) as (kubelet, api):
        host, port = api.server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        protocol = f"Sec-WebSocket-Protocol: {asked}\r\n" if asked else ""
        writer.write(
            f"GET {PODS}/p/log?container=c HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert ("Sec-WebSocket-Protocol: " + chosen in head) == bool(chosen)
        frames = await reader.read()
        assert frames[:1] == message
        data = (b"first\n", b"second\n", b"first\nsecond\n")
        assert any((base64.b64encode(one) if chosen == "base64" else one) in frames for one in data)
        assert frames[-4:] == b"\x88\x02\x03\xe8"  # closed as one who has said everything
        writer.close()
        await writer.wait_closed()
        assert kubelet.asked == ["GET /containerLogs/d/p/c HTTP/1.1"]


async def test_exec_is_a_tunnel(tmp_path: Path) -> None:
    async with kubelet_and_api(tmp_path) as (kubelet, api):
        host, port = api.server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        path = f"{PODS}/p/exec?container=c&command=ls&command=-l&stdin=true&stdout=true"
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        writer.write(b"bytes!")
        assert await reader.read() == b"hello BYTES!"
        writer.close()
        await writer.wait_closed()
        assert kubelet.asked == ["POST /exec/d/p/c?command=ls&command=-l&input=1&output=1 HTTP/1.1"]


async def test_node_proxy_passes_path_and_answer_on(tmp_path: Path) -> None:
    async with kubelet_and_api(tmp_path) as (kubelet, api):
        assert await api.raw("GET", "/api/v1/nodes/n/proxy/stats/summary?x=1") == b"first\nsecond\n"
        assert await api.raw("GET", "/api/v1/nodes/n/proxy/missing/x") == b"nope"
        assert api.status == 404
        assert kubelet.asked == ["GET /stats/summary?x=1 HTTP/1.1", "GET /missing/x HTTP/1.1"]


async def test_a_kubelet_that_is_away_is_a_503(tmp_path: Path) -> None:
    async with kubelet_and_api(tmp_path) as (_, api):
        away = {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
        await api.merge("/api/v1/nodes/n/status", {"status": away})
        refused = await api.get(f"{PODS}/p/log")
        assert (api.status, refused["reason"]) == (503, "ServiceUnavailable")


@asynccontextmanager
async def service_of(api: Api, answer: bytes) -> AsyncIterator[list[bytes]]:
    """A service `web` whose only endpoint answers every request so; what it was asked is recorded."""
    asked: list[bytes] = []

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(backend, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    spec = {"ports": [{"name": "http", "port": 80, "targetPort": port}], "clusterIP": "None"}
    await api.post(SERVICES, {"metadata": {"name": "web"}, "spec": spec})
    # The API refuses loopback endpoints, so this one is written past its validation.
    made = {
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
    }
    refused = await api.post("/apis/discovery.k8s.io/v1/namespaces/d/endpointslices", made)
    assert api.status == 201, refused
    store = api.server.resources.store("discovery.k8s.io", "endpointslices")
    assert store is not None
    entry = store.get("d", "web-1")
    entry.tail = entry.tail.replace(b"10.0.0.1", b"127.0.0.1")
    yield asked
    listening.close()
    await listening.wait_closed()


@pytest.mark.parametrize("name", ["web:http", "web", "web:80"])
async def test_service_proxy_reaches_a_ready_endpoint(api: Api, name: str) -> None:
    async with service_of(api, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as asked:
        path = f"{SERVICES}/{name}/proxy/a/b%20c"
        assert await api.raw("GET", f"{path}?x=1", Host="front:1", **{"X-Forwarded-For": "10.1.1.1"}) == b"ok"
        head, *headers = asked[0].decode().split("\r\n")
        assert head == "GET /a/b%20c?x=1 HTTP/1.1"
        assert {"Host: front:1", "x-forwarded-for: 10.1.1.1, 127.0.0.1", f"x-forwarded-uri: {path}"} <= set(headers)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("web", 'no endpoints available for service "web"'),
        ("web:http", 'no endpoints available for service "web:http"'),
        ("web:81", 'no service port 81 found for service "web"'),
    ],
)
async def test_service_proxy_says_what_is_missing(api: Api, name: str, why: str) -> None:
    spec = {"ports": [{"name": "http", "port": 80}], "clusterIP": "None"}
    await api.post(SERVICES, {"metadata": {"name": "web"}, "spec": spec})
    refused = await api.get(f"{SERVICES}/{name}/proxy/")
    assert (refused["message"], refused["code"]) == (why, 503)


async def test_proxied_pages_link_through_the_proxy(api: Api) -> None:
    page = b'<a href="/x">x</a>'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    async with service_of(api, answer):
        prefix = f"{SERVICES}/web/proxy"
        assert await api.raw("GET", f"{prefix}/d/e") == f'<a href="{prefix}/x">x</a>'.encode()


async def test_proxied_redirects_lead_through_the_proxy(api: Api) -> None:
    page = b'<a href="/x">'
    answer = b"HTTP/1.1 302 Found\r\nLocation: /to?x=1\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n" + page
    async with service_of(api, answer):
        assert await api.raw("GET", f"{SERVICES}/web/proxy/from") == page
        assert (api.status, api.headers["Location"]) == (302, f"{SERVICES}/web/proxy/to?x=1")


async def test_a_proxy_asked_without_a_path_sends_readers_to_its_root(api: Api) -> None:
    async with service_of(api, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as asked:
        for method in ("GET", "HEAD"):
            assert await api.raw(method, f"{SERVICES}/web/proxy?a=b") == b""
            assert (api.status, api.headers["Location"]) == (301, f"{SERVICES}/web/proxy/?a=b")
        assert asked == []
        assert await api.raw("POST", f"{SERVICES}/web/proxy?a=b") == b"ok"
        assert asked[0].startswith(b"POST /?a=b HTTP/1.1\r\n")


async def test_proxied_answers_without_a_body_leave_the_connection_usable(api: Api) -> None:
    async with service_of(api, b"HTTP/1.1 204 No Content\r\n\r\n"):
        host, port = api.server.addresses[0]
        reader, writer = await asyncio.open_connection(host, port)
        for method in ("HEAD", "GET", "HEAD"):
            writer.write(f"{method} {SERVICES}/web/proxy/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 204 ")
            assert b"chunked" not in head
        writer.close()
        await writer.wait_closed()


async def test_an_apply_to_what_is_there_need_not_say_its_name(api: Api) -> None:
    labels = {"a": "b"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    path = "/apis/apps/v1/namespaces/d/deployments"
    nameless = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
    refused = await api.apply(f"{path}/x", nameless, "m")
    assert (api.status, "was undeterminable: name must be provided" in refused["message"]) == (400, True)
    await api.post(path, {"metadata": {"name": "x"}, "spec": spec})
    paused = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"paused": True}}
    applied = await api.apply(f"{path}/x", paused, "m")
    assert (api.status, applied["metadata"]["name"], applied["spec"]["paused"]) == (200, "x", True)
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 2}}
    for metadata in ({}, {"metadata": {}}, {"metadata": None}, {"metadata": {"name": "x"}}):
        scaled = await api.apply(f"{path}/x/scale", scale | metadata, "m", force=True)
        assert (api.status, scaled["spec"]["replicas"]) == (200, 2)
    await api.apply(f"{path}/x/scale", scale | {"metadata": {"name": "y"}}, "m", force=True)
    assert api.status == 400
