"""Audit over a real server: events in a file, and at a real webhook over TLS."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.integration.apiserver.cluster import secured_cluster
from tests.integration.apiserver.https_service import Service, https_service
from tests.integration.apiserver.server import config_map, pod
from tiphys.apiserver.audit.options import AuditOptions, BatchOptions, TruncateOptions
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response

MAPS = "/api/v1/namespaces/d/configmaps"
HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
EVERYTHING = HEAD + "rules:\n- level: RequestResponse\n  resources: [{group: ''}]\n- level: Metadata\n"


def policy(directory: Path, text: str) -> Path:
    file = directory / "policy.yaml"
    file.write_text(text)
    return file


def events(log: Path, **wanted: str) -> list[Any]:
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in found if all(event.get(key) == value for key, value in wanted.items())]


async def test_events_of_a_write(tmp_path: Path) -> None:
    """The fields, their order and values are those of kube-apiserver v1.36 for the same requests."""
    log = tmp_path / "audit.log"
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log))
    async with secured_cluster(tmp_path, audit=options) as cluster:
        log.write_text("")
        await cluster.api.raw("POST", f"{MAPS}?pretty=1", config_map("a", {"x": "y"}), Audit_ID="first")
        assert cluster.api.headers["Audit-Id"] == "first"
        received, complete = events(log)
        assert list(received) == [
            "kind",
            "apiVersion",
            "level",
            "auditID",
            "stage",
            "requestURI",
            "verb",
            "user",
            "sourceIPs",
            "userAgent",
            "objectRef",
            "requestReceivedTimestamp",
            "stageTimestamp",
        ]
        assert received["objectRef"] == {"resource": "configmaps", "namespace": "d", "apiVersion": "v1"}
        assert (received["stage"], received["auditID"]) == ("RequestReceived", "first")
        assert received["requestURI"] == f"{MAPS}?pretty=1"
        assert received["sourceIPs"] == ["127.0.0.1"]
        assert received["user"]["username"] == "root"
        assert received["user"]["groups"] == ["system:masters", "system:authenticated"]
        assert list(complete) == [
            "kind",
            "apiVersion",
            "level",
            "auditID",
            "stage",
            "requestURI",
            "verb",
            "user",
            "sourceIPs",
            "userAgent",
            "objectRef",
            "responseStatus",
            "requestObject",
            "responseObject",
            "requestReceivedTimestamp",
            "stageTimestamp",
            "annotations",
        ]
        assert complete["objectRef"]["name"] == "a"
        assert complete["responseStatus"] == {"metadata": {}, "code": 201}
        assert complete["requestObject"]["data"] == complete["responseObject"]["data"] == {"x": "y"}
        assert complete["responseObject"]["metadata"]["managedFields"]
        assert complete["annotations"] == {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}
        assert (
            complete["requestReceivedTimestamp"] == received["requestReceivedTimestamp"] <= complete["stageTimestamp"]
        )


async def test_events_of_other_ends(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log))

    async def broken(request: Request) -> Response:
        raise RuntimeError("it broke")

    async with secured_cluster(tmp_path, lambda one: one.extra_paths.update({"/x": broken}), audit=options) as cluster:
        await cluster.api.delete(f"{MAPS}/none", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        (deleted,) = events(log, verb="delete", stage="ResponseComplete")
        assert deleted["requestObject"]["apiVersion"] == "meta.k8s.io/__internal"
        assert deleted["responseStatus"]["message"] == 'configmaps "none" not found'
        assert (deleted["responseStatus"]["code"], deleted["responseObject"]["code"]) == (404, 404)

        await cluster.ask("POST", MAPS, config_map("b"), token="alice-token")
        (refused,) = events(log, verb="create", stage="ResponseComplete")[-1:]
        assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
        assert refused["responseStatus"]["reason"] == "Forbidden"
        assert "requestObject" not in refused

        await cluster.ask("GET", MAPS, token="nobody's")
        (unknown,) = events(log, verb="list", stage="ResponseStarted")
        assert (unknown["user"], unknown["responseStatus"]["code"]) == ({}, 401)

        await cluster.api.raw("GET", f"{MAPS}?watch=1&timeoutSeconds=1")
        stages = [event["stage"] for event in events(log, verb="watch")]
        assert stages == ["RequestReceived", "ResponseStarted", "ResponseComplete"]

        await cluster.api.get("/x")
        assert cluster.api.status == 500
        (panic,) = events(log, requestURI="/x", stage="Panic")
        assert panic["responseStatus"]["code"] == 500
        assert "it broke" in panic["responseStatus"]["message"]

        await cluster.api.get(MAPS, Impersonate_User="joe", Impersonate_Group="devs")
        (other,) = events(log, verb="list", stage="ResponseComplete")[-1:]
        assert (other["user"]["username"], other["impersonatedUser"]["username"]) == ("root", "joe")
        assert other["impersonatedUser"]["groups"] == ["devs", "system:authenticated"]


async def test_admission_leaves_its_notes(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log))
    async with secured_cluster(tmp_path, audit=options) as cluster:
        await cluster.api.post("/api/v1/namespaces/d/pods", pod("p"))
        assert cluster.api.status == 201
        (created,) = [event for event in events(log, verb="create") if event["stage"] == "ResponseComplete"][-1:]
        assert created["annotations"]["pod-security.kubernetes.io/enforce-policy"] == "privileged:latest"
        await cluster.api.get("/api/v1/namespaces/d/endpoints")
        assert events(log, verb="list")[-1]["annotations"]["k8s.io/deprecated"] == "true"


async def test_stages_and_fields_can_be_left_out(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    rules = """
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: RequestResponse, verbs: [create]}
- {level: Request, verbs: [update], omitManagedFields: false}
- {level: Metadata, users: [alice], omitStages: [ResponseComplete]}
- {level: None}
"""
    options = AuditOptions(policy=policy(tmp_path, HEAD + rules), log_path=str(log))
    async with secured_cluster(tmp_path, audit=options) as cluster:
        made = await cluster.api.post(MAPS, config_map("a", {"x": "y"}))
        await cluster.api.put(f"{MAPS}/a", made)
        await cluster.api.get(MAPS)
        await cluster.ask("GET", MAPS, token="alice-token")
        created, updated = events(log)[-2:]
        assert (created["verb"], updated["verb"]) == ("create", "update")
        assert "managedFields" not in created["responseObject"]["metadata"]
        assert updated["requestObject"]["metadata"]["managedFields"]
        assert "responseObject" not in updated
        assert updated["objectRef"]["uid"] == made["metadata"]["uid"]
        assert {event["stage"] for event in events(log)} == {"ResponseComplete"}


async def test_the_file_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "audit.log"
    options = AuditOptions(
        policy=policy(tmp_path, EVERYTHING), log_path=str(log), log_max_size=1, log_max_backups=2, log_compress=True
    )
    async with secured_cluster(tmp_path, audit=options) as cluster:
        for number in range(14):
            await cluster.api.post(MAPS, config_map(f"large-{number}", {"x": "y" * 150_000}))
        files = sorted(path.name for path in log.parent.iterdir())
        assert len(files) == 3
        assert files[-1] == "audit.log"
        assert all(name.startswith("audit-2") and name.endswith(".log.gz") for name in files[:-1])
        assert 0 < log.stat().st_size < 1_100_000
        packed = gzip.decompress((log.parent / files[0]).read_bytes()).splitlines()
        assert all(json.loads(line)["kind"] == "Event" for line in packed)


async def test_batches_reach_the_webhook(tmp_path: Path) -> None:
    failures = 2

    async def answer(service: Service, request: web.Request, body: Any) -> web.Response:
        nonlocal failures
        if failures:
            failures -= 1
            return web.Response(status=503)
        return web.json_response({})

    async with https_service(tmp_path, answer) as service:
        options = AuditOptions(
            policy=policy(tmp_path, HEAD + "rules:\n- level: Metadata\n  verbs: [create]\n"),
            webhook=service.kubeconfig("/audit", token="secret"),
            webhook_initial_backoff=0.01,
            webhook_batch=BatchOptions(max_size=10, max_wait=0.2),
        )
        async with secured_cluster(tmp_path, audit=options) as cluster:
            for number in range(12):
                await cluster.api.post(MAPS, config_map(f"a-{number}"))
        # What had not been sent was when the server stopped.
        lists = [body for _, _, body in service.asked]
        assert service.asked[0][:1] == ("/audit",)
        assert service.asked[0][1]["authorization"] == "Bearer secret"
        assert lists[0]["items"][0] == lists[1]["items"][0] == lists[2]["items"][0]  # the first two were refused
        assert all(found["kind"] == "EventList" and len(found["items"]) <= 10 for found in lists)
        sent = dict.fromkeys(item["objectRef"].get("name") for found in lists[2:] for item in found["items"])
        assert [name for name in sent if name and name.startswith("a-")] == [f"a-{number}" for number in range(12)]


async def test_what_is_too_large_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    truncate = TruncateOptions(enabled=True, max_event=4000)
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log), log_truncate=truncate)
    async with secured_cluster(tmp_path, audit=options) as cluster:
        await cluster.api.post(MAPS, config_map("a", {"x": "y" * 10_000}))
        (cut,) = events(log, verb="create", stage="ResponseComplete")[-1:]
        assert cut["annotations"]["audit.k8s.io/truncated"] == "true"
        assert "responseObject" not in cut


async def test_strictly_recorded_or_not_served(tmp_path: Path) -> None:
    async def down(service: Service, request: web.Request, body: Any) -> web.Response:
        return web.Response(status=400)

    async with https_service(tmp_path, down) as service:
        options = AuditOptions(
            policy=policy(tmp_path, HEAD + "rules:\n- level: Metadata\n  users: [alice]\n"),
            webhook=service.kubeconfig(),
            webhook_mode="blocking-strict",
        )
        async with secured_cluster(tmp_path, audit=options) as cluster:
            await cluster.api.get("/version")
            assert cluster.api.status == 200
            assert (await cluster.ask("GET", "/version", token="alice-token"))[0] == 500


async def test_protobuf_bodies_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log))
    async with secured_cluster(tmp_path, audit=options) as cluster:
        await cluster.api.raw("GET", "/api/v1/namespaces/d", Accept="application/vnd.kubernetes.protobuf")
        (got,) = events(log, requestURI="/api/v1/namespaces/d", stage="ResponseComplete")
        assert got["responseObject"]["metadata"]["name"] == "d"


async def test_a_client_that_leaves_ends_its_watch(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    options = AuditOptions(policy=policy(tmp_path, EVERYTHING), log_path=str(log))
    async with secured_cluster(tmp_path, audit=options) as cluster:
        connector = aiohttp.TCPConnector(ssl=cluster.context("bob", "system:masters"))
        session = aiohttp.ClientSession(cluster.url, connector=connector)
        async with session, session.get(f"{MAPS}?watch=1") as watch:
            assert watch.status == 200
        for _ in range(1000):
            if events(log, verb="watch", stage="ResponseComplete"):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the end of the watch was not recorded")


REFUSED = [
    ("rules: []\n", {}, "loading audit policy file: loaded illegal policy with 0 rules: from file {policy}"),
    (
        "rules:\n- level: Foo\n- {level: None, omitStages: [Bar]}\n",
        {},
        (
            'loading audit policy file: [rules[0].level: Unsupported value: "Foo": supported values: '
            '"None", "Metadata", '
            '"Request", "RequestResponse", rules[1].omitStages[0]: Invalid value: "Bar": allowed stages are '
            "RequestReceived,"
            "ResponseStarted,ResponseComplete,Panic]: from file {policy}"
        ),
    ),
    (
        "rules:\n- level: Metadata\n  resources: [{resourceNames: [a]}]\n  nonResourceURLs: [healthz]\n- {}\n",
        {},
        (
            'loading audit policy file: [rules[0].nonResourceURLs[0]: Invalid value: "healthz": '
            "non-resource URL rules must "
            "begin with a '/' character, rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames "
            'requires at least one resource, rules[0].nonResourceURLs: Invalid value: ["healthz"]: rules '
            "cannot apply to "
            "both regular resources and non-resource URLs, rules[1].level: Required value]: from file {policy}"
        ),
    ),
    (
        "rules:\n- level: None\n",
        {"log_path": "-", "log_mode": "foo", "log_format": "xx", "log_max_age": -1, "log_max_size": -1},
        (
            '[invalid audit log mode foo, allowed modes are "batch,blocking,blocking-strict", invalid audit '
            "log format xx, "
            'allowed formats are "legacy,json", --audit-log-maxage -1 can\'t be a negative number, '
            "--audit-log-maxsize -1 can't be a negative number]"
        ),
    ),
    (
        "rules:\n- level: None\n",
        {"log_path": "-", "log_mode": "batch", "log_batch": BatchOptions(buffer_size=0)},
        "invalid audit batch log buffer size 0, must be a positive number",
    ),
    (
        "rules:\n- level: None\n",
        {"webhook": Path("/nowhere")},
        "initializing audit webhook: stat /nowhere: no such file or directory",
    ),
]


@pytest.mark.parametrize(("text", "options", "message"), REFUSED)
async def test_what_cannot_be(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    """The words are those of kube-apiserver v1.36 with the same files and flags."""
    file = policy(tmp_path, HEAD + text)
    with pytest.raises(ValueError) as refused:
        async with secured_cluster(tmp_path, audit=AuditOptions(policy=file, **options)):
            pass
    assert str(refused.value) == message.format(policy=file)
