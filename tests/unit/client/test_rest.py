"""The client over a real HTTP connection: decoding, errors, retries, watches cut anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tiphys.api.core.v1 import ConfigMap, Pod
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import ApiConnectionError, Client, EventType, RestConfig
from tiphys.machinery.errors import ConflictError, ExpiredError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = ObjectName("default", "a")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(RestConfig(server=f"http://127.0.0.1:{port}"), "test/1.0") as client:
            yield client
    finally:
        await runner.cleanup()


def status(code: int, reason: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "m",
            "reason": reason,
            "code": code,
        }
        return web.json_response(body, status=code)

    return handle


async def test_objects_go_out_with_kind_first_and_come_back_typed() -> None:
    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        assert body.startswith(b'{"apiVersion":"v1","kind":"ConfigMap"')
        assert request.headers["User-Agent"] == "test/1.0"
        assert request.path_qs == "/api/v1/namespaces/default/configmaps?dryRun=All"
        return web.Response(body=body, status=201)

    async with serving(handle) as client:
        made = await client.create(
            ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"k": "v"}), dry_run=True
        )
    assert made.data == {"k": "v"}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        pytest.param(404, "NotFound", NotFoundError, id="not found"),
        pytest.param(409, "Conflict", ConflictError, id="conflict"),
        pytest.param(410, "Expired", ExpiredError, id="expired"),
    ],
)
async def test_a_status_is_raised_as_its_own_error(code: int, reason: str, error: type[StatusError]) -> None:
    async with serving(status(code, reason)) as client:
        with pytest.raises(error) as caught:
            await client.get(ConfigMap, KEY)
    assert caught.value.code == code


async def test_an_answer_that_is_no_status_is_an_error_too() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text="bad gateway", status=502)

    async with serving(handle) as client:
        with pytest.raises(StatusError, match="bad gateway") as caught:
            await client.get(ConfigMap, KEY)
    assert caught.value.code == 502


async def test_retry_after_is_obeyed() -> None:
    calls = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls < 3:
            return web.Response(status=429, headers={"Retry-After": "0"})
        return web.json_response({"metadata": {"name": "a"}})

    async with serving(handle) as client:
        assert (await client.get(ConfigMap, KEY)).metadata.name == "a"
    assert calls == 3


async def test_null_lists_and_maps_read_as_empty() -> None:
    async def handle(request: web.Request) -> web.Response:
        item = {"metadata": {"name": "a", "labels": None}, "spec": {"containers": None}}
        return web.json_response({"metadata": {"resourceVersion": "7"}, "items": [item]})

    async with serving(handle) as client:
        result = await client.list(Pod)
    assert result.resource_version == "7"
    assert result.items[0].spec.containers == ()


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
async def test_a_watch_is_cut_into_events_wherever_chunks_end(size: int) -> None:
    lines = b"".join(
        b'{"type":"%s","object":{"metadata":{"name":"n%d","resourceVersion":"%d"}}}\n' % (kind, i, i)
        for i, kind in enumerate([b"ADDED", b"MODIFIED", b"DELETED", b"BOOKMARK"], start=1)
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "1"
        assert request.query["resourceVersion"] == "0"
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(lines), size):
            await response.write(lines[start : start + size])
            await asyncio.sleep(0)
        return response

    async with serving(handle) as client:
        events = [event async for event in client.watch(ConfigMap, resource_version="0")]
    assert [(event.type, event.resource_version) for event in events] == [
        (EventType.ADDED, "1"),
        (EventType.MODIFIED, "2"),
        (EventType.DELETED, "3"),
        (EventType.BOOKMARK, "4"),
    ]


async def test_an_error_event_ends_the_watch_with_its_status() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(
            text='{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'
        )

    async with serving(handle) as client:
        with pytest.raises(ExpiredError, match="too old"):
            async for _ in client.watch(ConfigMap, resource_version="1"):
                pass


async def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    async with Client(RestConfig(server="http://127.0.0.1:1")) as client:
        with pytest.raises(ApiConnectionError):
            await client.get(ConfigMap, KEY)
