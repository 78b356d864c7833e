"""Health is for everybody; metrics are for those whom the API server knows and allows."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tiphys.client import Client, RestConfig
from tiphys.client.transport import Response, StreamedResponse
from tiphys.cmd.health import Answering, Says, health_served

USERS = {"of-ann": "ann", "of-bob": "bob"}


class Reviews:
    """An API server that knows two tokens, and lets ann read metrics."""

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        asked: dict[str, Any] = json.loads(body or b"{}")
        if method == "GET":  # whose client certificates are taken: nobody's
            return Response(200, b'{"metadata": {}, "data": {}}')
        if target.endswith("/tokenreviews"):
            name = USERS.get(asked["spec"]["token"], "")
            asked["status"] = {"authenticated": bool(name), "user": {"username": name, "groups": ["staff"]}}
        else:
            spec = asked["spec"]
            assert spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
            asked["status"] = {"allowed": spec["user"] == "ann" and spec["groups"] == ["staff"]}
        return Response(201, json.dumps(asked).encode())

    def stream(self, target: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[StreamedResponse]:
        raise AssertionError(target)

    async def close(self) -> None:
        pass


@asynccontextmanager
async def reviewing() -> AsyncIterator[Client]:
    async with Client(RestConfig(server="https://127.0.0.1:1"), transport=Reviews()) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        pytest.param("/healthz", "", 200, id="health asks nobody"),
        pytest.param("/metrics", "", 401, id="no token"),
        pytest.param("/metrics", "Bearer of-nobody", 401, id="a token nobody knows"),
        pytest.param("/metrics", "Bearer of-bob", 403, id="known, not allowed"),
        pytest.param("/metrics", "Bearer of-ann", 200, id="allowed"),
    ],
)
async def test_who_is_answered_what(path: str, authorization: str, status: int) -> None:
    async with reviewing() as client:
        assert (await Answering(client, Says()).answer(path, authorization))[0] == status


async def test_it_is_served_over_tls(unused_tcp_port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with reviewing() as client, health_served(client, "127.0.0.1", unused_tcp_port):
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port, ssl=context)
        writer.write(b"GET /livez?verbose HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    ("subject", "status"),
    [
        pytest.param(((("commonName", "ann"),), (("organizationName", "staff"),)), 403, id="groups count"),
        pytest.param(((("organizationName", "system:masters"),), (("commonName", "root"),)), 200, id="masters may all"),
        pytest.param((), 401, id="nobody"),
    ],
)
async def test_certificates_say_who_asks(subject: tuple[object, ...], status: int) -> None:
    async with reviewing() as client:
        assert (await Answering(client, Says()).answer("/metrics", "", {"subject": subject}))[0] == status


async def test_readiness_and_configuration_are_the_components_own() -> None:
    certificate = {"subject": ((("organizationName", "system:masters"), ("commonName", "root")),)}
    async with reviewing() as client:
        answering = Answering(client, Says(lambda: {"componentconfig": {"kind": "X"}}, lambda: "informer-sync"))
        status, _, body = await answering.answer("/readyz", "")
        assert status == 500 and b"[-]informer-sync failed" in body
        assert (await answering.answer("/livez", ""))[0] == 200
        assert (await answering.answer("/configz", ""))[0] == 401
        told = await answering.answer("/configz", "", certificate)
        assert told == (200, "application/json", b'{"componentconfig":{"kind":"X"}}')
        assert (await Answering(client, Says()).answer("/configz", "", certificate))[0] == 404
