"""Any bytes on any path give a Status with a sensible code: no 500, no traceback, and the server stays there.

Short by default; TIPHYS_FUZZ_SECONDS=3600 makes each test run that long instead.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import RESOURCES

from .fuzzing import TEXTS, HTTPException, Target, judge, running_target, spoiled, struct_of

SECONDS: Final = float(os.environ.get("TIPHYS_FUZZ_SECONDS", "0"))
EXAMPLES: Final = 40  # of each test, when it is not run for a time
KINDS: Final = [one for one in RESOURCES if "create" in one.verbs and has_schema(one.group, one.version, one.kind)]
MEDIA: Final = (
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "text/plain",
    "a/b;q=x",
    "*/*",
    "",
    "\xff",
    ";;;",
    "application/cbor",
)
QUERIES: Final = (
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "labelSelector",
    "fieldSelector",
    "timeoutSeconds",
    "dryRun",
    "fieldManager",
    "fieldValidation",
    "force",
    "pretty",
    "propagationPolicy",
    "gracePeriodSeconds",
    "orphanDependents",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "includeObject",
    "timeout",
    "x",
)
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "MKCOL")
VALID: Final = [
    ("/api/v1/namespaces/d/configmaps", {"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"}}),
    (
        "/api/v1/namespaces/d/services",
        {"kind": "Service", "apiVersion": "v1", "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    ),
    (
        "/api/v1/namespaces/d/pods",
        {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"name": "c", "image": "i"}]}},
    ),
    (
        "/apis/apps/v1/namespaces/d/deployments",
        {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            },
        },
    ),
]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as found:
        for path, name in (("/api/v1/namespaces", "d"), ("/api/v1/namespaces/d/serviceaccounts", "default")):
            found.ask("POST", path, json.dumps({"metadata": {"name": name}}).encode(), Content_Type="application/json")
        yield found


def fuzz(target: Target, attempt: Callable[[Random], None]) -> None:
    """Many attempts, each with randomness that hypothesis can make smaller; then the server must be well."""
    until = time.monotonic() + SECONDS

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=not SECONDS,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(min_value=0, max_value=2**48))
    def several(seed: int) -> None:
        attempt(Random(seed))

    several()
    while time.monotonic() < until:
        several()
    healthy(target)
    if SECONDS:
        print(f"\n{target.figures()}; {resident() >> 20} MiB resident")


def healthy(target: Target) -> None:
    assert target.ask("GET", "/livez").body == b"ok"
    logged, target.errors[:] = list(target.errors), []
    assert logged == []


def collection(rng: Random) -> tuple[Any, str]:
    one = rng.choice(KINDS)
    base = f"/apis/{one.group}/{one.version}" if one.group else f"/api/{one.version}"
    return one, f"{base}{'/namespaces/d' if one.namespaced else ''}/{one.plural}"


def body_of(one: Any, rng: Random, name: str) -> dict[str, Any]:
    made = struct_of(schema_of(one.group, one.version, one.kind), rng, 0, rng.choice((0, 0.02, 0.1)))
    made["kind"], made["apiVersion"] = one.kind, f"{one.group}/{one.version}" if one.group else one.version
    if rng.random() < 0.9:
        made["metadata"] = {"name": name}
    return made


def test_objects_of_every_kind_with_strange_values(target: Target) -> None:
    def attempt(rng: Random) -> None:
        one, path = collection(rng)
        name = f"f{rng.randrange(2**32)}"
        judge(target.ask("POST", path, json.dumps(body_of(one, rng, name)).encode(), Content_Type=MEDIA[0]))
        for media in MEDIA[3:7]:
            data = json.dumps(body_of(one, rng, name)).encode()
            judge(
                target.ask(
                    "PATCH",
                    f"{path}/{name}?fieldManager=f&force=true"[: None if "apply" in media else -11],
                    data,
                    Content_Type=media,
                )
            )
        judge(target.ask("PUT", f"{path}/{name}", json.dumps(body_of(one, rng, name)).encode(), Content_Type=MEDIA[0]))
        judge(target.ask("DELETE", f"{path}/{name}"))

    fuzz(target, attempt)


def test_good_objects_spoiled_in_one_place(target: Target) -> None:
    def attempt(rng: Random) -> None:
        path, good = rng.choice(VALID)
        name = f"s{rng.randrange(2**32)}"
        made = {**good, "metadata": {"name": name}}
        assert target.ask("POST", path, json.dumps(made).encode(), Content_Type=MEDIA[0]).status in (201, 409)
        spot: Any = made
        while isinstance(spot, (dict, list)) and spot:
            keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
            key = rng.choice(keys)
            if not isinstance(spot[key], (dict, list)) or rng.random() < 0.2:
                spot = json.loads(json.dumps({"put": None}))
                break
            spot = spot[key]
        data = json.dumps(made).encode()
        for method, media in (("PUT", MEDIA[0]), ("PATCH", MEDIA[3]), ("PATCH", MEDIA[4])):
            judge(target.ask(method, f"{path}/{name}", spoiled(data, rng), Content_Type=media))
        entries = [{"manager": "m", "operation": "Update", "fieldsV1": {rng.choice(TEXTS): {rng.choice(TEXTS): {}}}}]
        owned = json.dumps({"metadata": {"managedFields": entries}}).encode()
        judge(target.ask("PATCH", f"{path}/{name}", owned, Content_Type=MEDIA[3]))
        operation: dict[str, Any] = {
            "op": rng.choice(("add", "remove", "move", "copy", "test", "replace", "?")),
            "path": rng.choice(
                ("", "/", "/spec", "/metadata/labels/x", "/a~2", "/spec/ports/-", "/metadata/managedFields/9")
            ),
            "from": rng.choice(("", "/spec", "/x")),
            "value": rng.choice((None, 1, {}, [])),
        }
        judge(target.ask("PATCH", f"{path}/{name}", json.dumps([operation]).encode(), Content_Type=MEDIA[5]))
        target.ask("DELETE", f"{path}/{name}?gracePeriodSeconds=0")

    fuzz(target, attempt)


def test_bytes_that_are_no_objects(target: Target) -> None:
    deep = 100_000
    fixed = (
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b"\x00",
        b"\xff\xfe",
        b"k8s\x00",
        b"k8s\x00\xff\xff\xff\xff\xff\xff",
        b"[" * deep,
        b'{"a":' * deep,
        b'{"data":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"metadata":{"name":"a","name":"b"}}',
        b'{"metadata":{"labels":' + b'{"a":' * deep,
        b"a: &a [*a, *a]",
        b"- " * 5000,
        b'{"data":{"a":1e999}}',
        b'{"metadata":{"name":"\\ud800"}}',
        b"&a" * 1000,
        b"a: &x [1,1,1,1,1,1,1,1,1]\nb: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nc: [*y,*y,*y,*y,*y,*y,*y,*y,*y]",
        b'{"metadata":{"name":' + b"9" * 5000 + b"}}",
        b"!!python/object:os.system {}",
        b"%YAML 9.9\n---\n",
    )

    def attempt(rng: Random) -> None:
        _, path = collection(rng)
        data = rng.choice(fixed) if rng.random() < 0.6 else rng.randbytes(rng.randrange(200))
        media = rng.choice(MEDIA[:7])
        judge(target.ask("POST", path, data, Content_Type=media))
        judge(target.ask("PATCH", f"{path}/x?fieldManager=f", data, Content_Type=media))
        judge(target.ask("DELETE", f"{path}/x", data, Content_Type=media))

    fuzz(target, attempt)


def test_paths_queries_and_headers(target: Target) -> None:
    parts = (
        "api",
        "apis",
        "v1",
        "apps",
        "namespaces",
        "d",
        "pods",
        "x",
        "status",
        "log",
        "exec",
        "proxy",
        "watch",
        "",
        "..",
        ".",
        "%2e%2e",
        "%00",
        "%ff",
        "%zz",
        "ü",
        "x" * 300,
        "openapi",
        "v2",
        "v3",
        "healthz",
        "readyz",
        "metrics",
        "version",
        "scale",
        "binding",
        "eviction",
        "token",
        "nodes",
        "deployments",
        "portforward",
        "attach",
        ":",
        "@",
        ";",
    )

    def attempt(rng: Random) -> None:
        if rng.random() < 0.5:
            path = collection(rng)[1] + rng.choice(("", "/x", "/x/status", "/x/y/z", "/"))
        else:
            path = "/" + "/".join(rng.choice(parts) for _ in range(rng.randrange(8)))
        pairs = [
            f"{rng.choice(QUERIES)}={rng.choice((quote(rng.choice(TEXTS)), '%ff', '1', '-1', '9' * 30, 'true'))}"
            for _ in range(rng.randrange(4))
        ]
        # A watch that is understood would stay open.
        target_path = quote(path, safe="/%:@;.") + ("?" + "&".join(["timeoutSeconds=1", *pairs]) if pairs else "")
        headers = {"Accept": rng.choice(MEDIA), "Content-Type": rng.choice(MEDIA)}
        name = rng.choice(
            (
                "Impersonate-User",
                "Authorization",
                "Range",
                "If-None-Match",
                "Accept-Encoding",
                "Upgrade",
                "Connection",
                "X-Remote-User",
                "Audit-Id",
                "Origin",
            )
        )
        headers[name] = rng.choice(("", "x", "Bearer", "Bearer x.y.z", "websocket", "SPDY/3.1", "x" * 3000, "\xe9"))
        method = rng.choice(METHODS)
        if method == "HEAD":
            assert target.ask(method, target_path, None, **headers).body == b""  # judged by what is logged
            return
        reply = target.ask(method, target_path, rng.choice((None, b"{}", b"x")), **headers)
        if reply.status >= 400:
            judge(reply)

    fuzz(target, attempt)


REQUEST: Final = b"POST /api/v1/namespaces/d/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MALFORMED: Final = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00" * 100,
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    REQUEST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    REQUEST + b"Content-Length: 99999999999\r\n\r\n",
    REQUEST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    REQUEST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    REQUEST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
    b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA" + b"b" * 2_000_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://x/api HTTP/1.1\r\n\r\n",
    b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"GET /api HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
]


@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_malformed_http(target: Target, number: int, half_close: bool) -> None:
    received = target.raw(MALFORMED[number], half_close=half_close)
    assert not received.startswith(b"HTTP/1.1 5"), received[:500]
    healthy(target)


def test_requests_broken_anywhere(target: Target) -> None:
    data = b'{"metadata":{"name":"raw"}}'
    good = REQUEST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)

    def attempt(rng: Random) -> None:
        broken = spoiled(good, rng)
        received = target.raw(broken, half_close=True)
        assert not received.startswith(b"HTTP/1.1 5"), (broken, received[:500])

    fuzz(target, attempt)


def test_clients_that_stall_do_not_hold_up_others(target: Target) -> None:
    stalled: list[socket.socket] = []
    try:
        for number in range(200):
            one = target.connect()
            one.sendall(REQUEST[: 1 + number % len(REQUEST)])
            stalled.append(one)
        for _ in range(20):
            healthy(target)
    finally:
        for one in stalled:
            one.close()


def test_a_million_labels_and_huge_bodies_cost_a_refusal(target: Target) -> None:
    before = resident()
    labels = b",".join(b'"l%d":"v"' % number for number in range(150_000))
    path = "/api/v1/namespaces/d/configmaps"
    reply = target.ask("POST", path, b'{"metadata":{"name":"big","labels":{%b}}}' % labels, Content_Type=MEDIA[0])
    assert reply.status < 500
    try:
        reply = target.ask("POST", path, b'{"data":{"a":"%b"}}' % (b"x" * 8_000_000), Content_Type=MEDIA[0])
        assert reply.status == 413
    except (OSError, HTTPException):
        pass  # cut off while it was still sending
    healthy(target)
    assert resident() - before < 400 * 1024 * 1024


def resident() -> int:
    """Memory of this process, the server's too, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
