"""Registries that misbehave on purpose: the pull fails in time and in words, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from aiohttp import web

from tests.e2e.runtime.harness import Client
from tests.e2e.runtime.test_pull import pull
from tests.unit.runtime.archives import Entry, ImageFiles, digest, image, tar

pytestmark = pytest.mark.root
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hostile:
    """Answers as an ordinary registry, but for the kinds of request that `odd` has an answer for."""

    def __init__(self) -> None:
        self.files: ImageFiles = image([tar(Entry("file", bytes(300_000)))], how="none")
        self.odd: dict[str, Answer] = {}
        self.address = ""
        self.sent = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        kind = request.path.split("/")[-2] if request.path.startswith("/v2/app/") else request.path.strip("/")
        name = request.path.rpartition("/")[2]
        if kind == "blobs" and name == self.files.config:
            kind = "config"
        if kind in self.odd:
            return await self.odd[kind](request)
        if kind == "manifests":
            return web.Response(body=self.manifest(), content_type=MANIFEST)
        return web.Response(body=self.files.blobs[name])

    def manifest(self) -> bytes:
        return self.files.blobs[self.files.manifest]

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))
            self.sent += 1 << 16

    async def to_itself(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path)

    async def to_a_file(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("file:///etc/passwd")

    async def asking_for_a_token(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{self.address}/token"'})


def saying(body: Any, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=data, headers={"Content-Type": MANIFEST, **headers})

    return answer


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    found = Hostile()
    server = web.Application()
    server.add_routes([web.get("/{path:.*}", found.handle)])
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.address = "{}:{}".format(*runner.addresses[0][:2])
    yield found
    await runner.cleanup()


async def refused(client: Client, hostile: Hostile) -> str:
    """What the pull says; it leaves neither image nor layer nor half a download."""
    layers = client.options.images / "layers"
    before = sorted(layers.iterdir())
    async with asyncio.timeout(60):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pull(client, f"{hostile.address}/app:v1")
    assert sorted(layers.iterdir()) == before
    assert not [path for path in (client.options.images / "ingest").glob("*") if path.suffix != ".lock"]
    return caught.value.details() or ""


async def test_an_ordinary_answer(cri_client: Client, hostile: Hostile) -> None:
    assert await pull(cri_client, f"{hostile.address}/app:v1") == hostile.files.config


async def test_redirects_without_end(cri_client: Client, hostile: Hostile) -> None:
    hostile.odd["manifests"] = hostile.to_itself
    assert "stopped after 10 redirects" in await refused(cri_client, hostile)


async def test_a_redirect_to_a_file(cri_client: Client, hostile: Hostile) -> None:
    hostile.odd["config"] = hostile.to_a_file
    assert "failed to do request" in await refused(cri_client, hostile)


@pytest.mark.parametrize(
    ("kind", "said"), [("manifests", "is larger than 4194304 bytes"), ("config", "image configuration is too large")]
)
async def test_documents_without_end(cri_client: Client, hostile: Hostile, kind: str, said: str) -> None:
    hostile.odd[kind] = hostile.endless
    assert said in await refused(cri_client, hostile)


async def test_a_layer_without_end(cri_client: Client, hostile: Hostile) -> None:
    hostile.odd["blobs"] = hostile.endless
    assert "is larger than the" in await refused(cri_client, hostile)
    assert hostile.sent < 64 << 20


async def test_a_token_without_end(cri_client: Client, hostile: Hostile) -> None:
    hostile.odd |= {"manifests": hostile.asking_for_a_token, "token": hostile.endless}
    assert "token response is larger than" in await refused(cri_client, hostile)


@pytest.mark.parametrize("answer", [b"{", b"[]", b"\xff", {"token": "a\r\nHost: evil"}])
async def test_a_token_that_is_none(cri_client: Client, hostile: Hostile, answer: Any) -> None:
    hostile.odd |= {"manifests": hostile.asking_for_a_token, "token": saying(answer)}
    assert "unable to decode token response" in await refused(cri_client, hostile)


def described(**layer: Any) -> dict[str, Any]:
    config = {"digest": digest(b"{}"), "size": 2}
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] if layer else []}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"<html>", "cannot decode manifest"),
        ([], "cannot decode manifest: not an object"),
        ({"config": "x"}, "config is no object"),
        ({"config": {"digest": "sha256:../../../../etc/passwd"}}, "unsupported digest"),
        ({"config": {"digest": 7}}, "unsupported digest"),
        ({"manifests": "all"}, "manifests is no list of objects"),
        ({"manifests": []}, "no match for platform"),
        (described(digest=digest(b"x"), size="huge"), "size of"),
        (described(digest=digest(b"x"), size=-1), "size of"),
    ],
)
async def test_manifests_that_are_none(cri_client: Client, hostile: Hostile, manifest: Any, said: str) -> None:
    hostile.odd["manifests"] = saying(manifest)
    assert said in await refused(cri_client, hostile)


@pytest.mark.parametrize(
    ("size", "said"), [(1 << 60, "no space left on device"), (0, "is missing"), (None, "is missing")]
)
async def test_layers_of_absurd_sizes(cri_client: Client, hostile: Hostile, size: int | None, said: str) -> None:
    manifest = json.loads(hostile.manifest())
    manifest["layers"][0] = {"digest": manifest["layers"][0]["digest"], **({} if size is None else {"size": size})}
    hostile.odd["manifests"] = saying(manifest)
    assert said in await refused(cri_client, hostile)


async def test_a_configuration_that_is_none(cri_client: Client, hostile: Hostile) -> None:
    body = json.dumps({"rootfs": {"diff_ids": {"a": 1}}}).encode()
    hostile.odd["manifests"] = saying({**described(), "config": {"digest": digest(body), "size": len(body)}})
    hostile.odd["blobs"] = saying(body)
    assert "diff_ids is no list of texts" in await refused(cri_client, hostile)
