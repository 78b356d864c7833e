"""Priority and fairness over a real server: headers, refusals, queues, a flood that keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.apiserver.cluster import Cluster, secured_cluster
from tests.integration.apiserver.server import Api
from tiphys.apiserver.flowcontrol.gate import FairGate
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response

FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
DEBUG = "/debug/api_priority_and_fairness"
SCHEMA_UID, LEVEL_UID = "X-Kubernetes-PF-FlowSchema-UID", "X-Kubernetes-PF-PriorityLevel-UID"
READ_SLOW = {"nonResourceURLs": ["/slow", "/metrics", f"{DEBUG}/*"], "verbs": ["get"]}


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to be")


class Door:
    """A path whose requests are answered when the door is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0

    async def __call__(self, request: Request) -> Response:
        self.inside += 1
        try:
            await self.opened.wait()
        finally:
            self.inside -= 1
        return Response(200, b"{}")

    async def until(self, count: int) -> None:
        await eventually(lambda: self.inside == count)


@asynccontextmanager
async def cluster_with(tmp_path: Path, door: Door, **options: Any) -> AsyncIterator[Cluster]:
    async with secured_cluster(tmp_path, lambda server: server.extra_paths.update({"/slow": door}), **options) as found:
        role = {"metadata": {"name": "slow"}, "rules": [READ_SLOW]}
        await found.api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
        reference = {"kind": "ClusterRole", "name": "slow", "apiGroup": "rbac.authorization.k8s.io"}
        subject = {"kind": "Group", "name": "system:authenticated", "apiGroup": "rbac.authorization.k8s.io"}
        binding = {"metadata": {"name": "slow"}, "roleRef": reference, "subjects": [subject]}
        await found.api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        yield found


@pytest.fixture
async def door() -> Door:
    return Door()


@pytest.fixture
async def cluster(tmp_path: Path, door: Door) -> AsyncIterator[Cluster]:
    async with cluster_with(tmp_path, door) as found:
        yield found


async def put_alice(api: Api, **limited: Any) -> None:
    """A level of one seat (shares 0 would be none, and one request is always served), and alice's requests in it."""
    limited = {"nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, **limited}
    level = {"metadata": {"name": "small"}, "spec": {"type": "Limited", "limited": limited}}
    await api.post(f"{FLOW}/prioritylevelconfigurations", level)
    assert api.status == 201
    rule = {
        "subjects": [{"kind": "User", "user": {"name": "alice"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True, "namespaces": ["*"]}
        ],
    }
    reference = {"name": "small"}
    spec = {"priorityLevelConfiguration": reference, "matchingPrecedence": 50, "rules": [rule]}
    await api.post(f"{FLOW}/flowschemas", {"metadata": {"name": "alices"}, "spec": spec})
    assert api.status == 201


def level_of(cluster: Cluster, name: str) -> Any:
    gate = cluster.server.gate
    assert isinstance(gate, FairGate)
    return gate.control.levels[name]


async def test_answers_say_how_they_were_treated(cluster: Cluster) -> None:
    schemas = {item["metadata"]["name"]: item["metadata"]["uid"] for item in await _items(cluster, "flowschemas")}
    levels = {
        item["metadata"]["name"]: item["metadata"]["uid"]
        for item in await _items(cluster, "prioritylevelconfigurations")
    }
    assert cluster.api.headers[SCHEMA_UID] == schemas["exempt"]
    status, headers, _ = await cluster.asked("GET", "/api/v1/nodes", token="alice-token")
    assert (status, headers[SCHEMA_UID]) == (403, schemas["global-default"])  # judged before authorization
    assert headers[LEVEL_UID] == levels["global-default"]
    status, headers, _ = await cluster.asked("GET", "/healthz")
    assert (status, headers[LEVEL_UID]) == (200, levels["exempt"])
    status, headers, _ = await cluster.asked("GET", "/version", token="nobody's")
    assert (status, SCHEMA_UID in headers) == (401, False)


async def _items(cluster: Cluster, plural: str) -> list[Any]:
    found: list[Any] = (await cluster.api.get(f"{FLOW}/{plural}"))["items"]
    return found


async def test_what_is_too_much_is_refused(cluster: Cluster, door: Door) -> None:
    await put_alice(cluster.api, limitResponse={"type": "Reject"})
    first = asyncio.create_task(cluster.asked("GET", "/slow", token="alice-token"))
    await door.until(1)
    status, headers, body = await cluster.asked("GET", "/version", token="alice-token")
    assert (status, headers["Retry-After"], body) == (429, "1", b"Too many requests, please try again later.\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers[SCHEMA_UID]
    # Others do not notice.
    assert (await cluster.asked("GET", "/version", context=cluster.context("bob")))[0] == 200
    door.opened.set()
    assert (await first)[0] == 200
    assert (await cluster.asked("GET", "/version", token="alice-token"))[0] == 200
    metrics = (await cluster.api.raw("GET", "/metrics")).decode()
    labels = 'flow_schema="alices",priority_level="small"'
    assert f'apiserver_flowcontrol_rejected_requests_total{{{labels},reason="concurrency-limit"}} 1' in metrics
    assert f"apiserver_flowcontrol_dispatched_requests_total{{{labels}}} 2" in metrics
    assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 245' in metrics


async def test_what_waits_is_seen_and_served(cluster: Cluster, door: Door) -> None:
    queuing = {"queues": 4, "handSize": 2, "queueLengthLimit": 3}
    await put_alice(cluster.api, limitResponse={"type": "Queue", "queuing": queuing})
    first = asyncio.create_task(cluster.asked("GET", "/slow", token="alice-token"))
    await door.until(1)
    second = asyncio.create_task(cluster.asked("GET", "/slow", token="alice-token"))
    await eventually(lambda: bool(level_of(cluster, "small").waiting))
    lines = (await cluster.api.raw("GET", f"{DEBUG}/dump_priority_levels")).decode().splitlines()
    assert [word.strip() for word in next(line for line in lines if line.startswith("small")).split(",")] == (
        ["small", "1", "false", "false", "1", "1", "1", "0", "0", "0"]
    )
    page = (await cluster.api.raw("GET", f"{DEBUG}/dump_requests?includeRequestDetails=1")).decode()
    rows = [[word.strip() for word in line.split(",")] for line in page.splitlines()]
    columns = {name: index for index, name in enumerate(rows[0])}
    found = [row for row in rows if row[0] == "small"]
    assert [row[columns["APIPath"]] for row in found] == ["/slow", "/slow"]
    assert sorted(row[columns["RequestIndexInQueue"]] for row in found) == ["-1", "0"]
    page = (await cluster.api.raw("GET", f"{DEBUG}/dump_queues")).decode()
    assert sum(line.startswith("small,") for line in page.splitlines()) == 4
    door.opened.set()
    assert [(await one)[0] for one in (first, second)] == [200, 200]
    assert level_of(cluster, "small").idle


async def test_nobody_waits_for_ever(cluster: Cluster, door: Door) -> None:
    await put_alice(
        cluster.api, limitResponse={"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 3}}
    )
    gate = cluster.server.gate
    assert isinstance(gate, FairGate)
    gate._queue_wait = 0.05
    first = asyncio.create_task(cluster.asked("GET", "/slow", token="alice-token"))
    await door.until(1)
    assert (await cluster.asked("GET", "/version", token="alice-token"))[0] == 429
    gate._queue_wait = 60.0
    # A client that goes away while it waits leaves nothing behind.
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await cluster.asked("GET", "/version", token="alice-token")
    level = level_of(cluster, "small")
    await eventually(lambda: not level.waiting)
    assert level.rejected == {"time-out": 1, "cancelled": 1}
    door.opened.set()
    assert (await first)[0] == 200


async def test_watches_and_logs_hold_no_seats(cluster: Cluster) -> None:
    await put_alice(cluster.api, limitResponse={"type": "Reject"})
    role = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["*"], "verbs": ["*"]}]}
    await cluster.api.post("/apis/rbac.authorization.k8s.io/v1/namespaces/d/roles", role)
    reference = {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}
    subject = {"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": [subject]}
    await cluster.api.post("/apis/rbac.authorization.k8s.io/v1/namespaces/d/rolebindings", binding)
    connector = aiohttp.TCPConnector(ssl=cluster.context())
    headers = {"Authorization": "Bearer alice-token"}
    async with aiohttp.ClientSession(cluster.url, connector=connector, headers=headers) as session:
        watch = "/api/v1/namespaces/d/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        async with session.get(f"{watch}&allowWatchBookmarks=true") as first:
            await first.content.readline()  # its initial part has been sent
            async with session.get("/api/v1/namespaces/d/configmaps?watch=1") as second:
                assert (first.status, second.status) == (200, 200)
                assert first.headers[SCHEMA_UID] == second.headers[SCHEMA_UID]
                await eventually(lambda: not level_of(cluster, "small").in_use)
                async with session.get("/api/v1/namespaces/d/pods/none/log") as log:
                    assert (log.status, SCHEMA_UID in log.headers) == (404, False)
                async with session.get("/api/v1/namespaces/d/configmaps") as listed:
                    assert listed.status == 200


async def test_a_flood_keeps_nobody_from_being_served(tmp_path: Path, door: Door) -> None:
    """A hundred slow requests of one user at a time, for three seats, and another user's requests in between."""
    served: list[str] = []

    async def slow(request: Request) -> Response:
        served.append(request.user.name)
        await asyncio.sleep(0.01)
        return Response(200, b"{}")

    limits = {"max_requests_in_flight": 20, "max_mutating_requests_in_flight": 10}
    async with cluster_with(tmp_path, door, **limits) as cluster:
        cluster.server.extra_paths["/slow"] = slow
        level = level_of(cluster, "global-default")
        assert level.limit == 3  # of 30 seats
        over = False
        headers = {"Authorization": "Bearer alice-token"}
        connector = aiohttp.TCPConnector(ssl=cluster.context(), limit=100)
        async with aiohttp.ClientSession(cluster.url, connector=connector, headers=headers) as session:

            async def flood() -> None:
                while not over:
                    async with session.get("/slow") as answer:
                        await answer.read()

            floods = [asyncio.create_task(flood()) for _ in range(100)]
            await eventually(lambda: level.waiting > 80)
            bob = aiohttp.TCPConnector(ssl=cluster.context("bob"))
            async with aiohttp.ClientSession(cluster.url, connector=bob) as other:
                for _ in range(11):
                    async with other.get("/slow") as answer:
                        assert answer.status == 200
            over = True
            await asyncio.gather(*floods)
    turns = [index for index, name in enumerate(served) if name == "bob"]
    between = sorted(later - earlier for earlier, later in pairwise(turns))
    # In one line with the flood about a hundred would be served before him each time; he takes turns with its queues.
    assert between[5] < 40


async def test_without_fairness_there_are_two_limits(tmp_path: Path, door: Door) -> None:
    limits = {"priority_and_fairness": False, "max_requests_in_flight": 2, "max_mutating_requests_in_flight": 0}
    async with cluster_with(tmp_path, door, **limits) as cluster:
        asked = [asyncio.create_task(cluster.asked("GET", "/slow", token="alice-token")) for _ in range(2)]
        await door.until(2)
        status, headers, _ = await cluster.asked("GET", "/version", token="alice-token")
        assert (status, headers["Retry-After"], SCHEMA_UID in headers) == (429, "1", False)
        await cluster.api.get("/version")
        assert cluster.api.status == 200
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        assert (await cluster.ask("POST", path, review, token="alice-token"))[0] == 201
        door.opened.set()
        assert [(await one)[0] for one in asked] == [200, 200]


def _refusals() -> Iterator[Any]:
    negative = "can not be negative value"
    both = f"[--max-requests-inflight {negative}, --max-mutating-requests-inflight {negative}]"
    yield {"max_requests_in_flight": -1, "max_mutating_requests_in_flight": -1}, both
    yield {"max_requests_in_flight": -1}, "--max-requests-inflight can not be negative value"
    neither = "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0"
    nothing = {"max_requests_in_flight": 0, "max_mutating_requests_in_flight": 0}
    yield nothing, f"{neither}; they must add up to something positive"


@pytest.mark.parametrize(("options", "message"), list(_refusals()))
async def test_limits_that_cannot_be(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as refused:
        async with secured_cluster(tmp_path, **options):
            pass
    assert str(refused.value) == message
