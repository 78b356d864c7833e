"""Pulling from registries: a real one on loopback, and one that misbehaves in the ways registries do."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import msgspec
import pytest
from aiohttp import web

from tests.e2e.runtime.harness import Client, options_in, serving
from tests.e2e.runtime.registry import BINARY, push, put_manifest, registry
from tests.unit.runtime.archives import Entry, ImageFiles, image, tar
from tiphys.api.cri import api_pb2 as cri
from tiphys.runtime import namespaces
from tiphys.runtime.images.elsewhere import LoopElsewhere
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.linux import architecture
from tiphys.runtime.options import RegistryOptions

needs_registry = pytest.mark.skipif(BINARY is None, reason="needs docker-registry")


def app(*texts: bytes, how: str = "gzip") -> ImageFiles:
    layers = [tar(Entry("tmp/only-first", b"1"), Entry("text", b"base"))]
    layers += [tar(Entry("text", text), Entry(".wh.tmp")) for text in texts]
    return image(layers, how=how, config={"Cmd": ["/bin/true"], "Env": ["A=b"]})


async def pull(client: Client, name: str, **auth: str) -> str:
    request = cri.PullImageRequest(image=cri.ImageSpec(image=name), auth=cri.AuthConfig(**auth))
    return (await client.images.PullImage(request)).image_ref


@pytest.fixture
async def host() -> AsyncIterator[str]:
    async with registry() as address:
        yield address


@needs_registry
@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
async def test_pull_by_tag_and_digest(cri_client: Client, host: str, how: str) -> None:
    files = app(b"two", b"three", how=how)
    await push(host, "team/app", "v1", files)
    assert await pull(cri_client, f"{host}/team/app:v1") == files.config
    status = await cri_client.images.ImageStatus(
        cri.ImageStatusRequest(image=cri.ImageSpec(image=f"{host}/team/app:v1"))
    )
    assert list(status.image.repo_tags) == [f"{host}/team/app:v1"]
    assert list(status.image.repo_digests) == [f"{host}/team/app@{files.manifest}"]
    assert await pull(cri_client, f"{host}/team/app@{files.manifest}") == files.config
    layers = cri_client.options.images / "layers"
    assert len(list(layers.iterdir())) == 2 + 3  # busybox and pause
    await cri_client.images.RemoveImage(cri.RemoveImageRequest(image=cri.ImageSpec(image=files.config)))
    assert len(list(layers.iterdir())) == 2
    left = [path.name for path in (cri_client.options.images / "ingest").iterdir()]
    assert left == []


@needs_registry
async def test_an_index(cri_client: Client, host: str) -> None:
    files, other = app(b"mine"), app(b"other")
    await push(host, "multi", "mine", files)
    await push(host, "multi", "other", other)
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": found.manifest,
            "size": len(found.blobs[found.manifest]),
            "platform": {"os": "linux", "architecture": arch},
        }
        for found, arch in ((other, "s390x"), (files, architecture()))
    ]
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    async with aiohttp.ClientSession(f"http://{host}") as session:
        await put_manifest(session, "multi", "all", index, kind)
        only = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries[:1]}).encode()
        await put_manifest(session, "multi", "none", only, kind)
    assert await pull(cri_client, f"{host}/multi:all") == files.config
    with pytest.raises(grpc.aio.AioRpcError, match="no match for platform") as caught:
        await pull(cri_client, f"{host}/multi:none")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@needs_registry
async def test_what_is_not_there(cri_client: Client, host: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pull(cri_client, f"{host}/missing:v1")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    name = f"{host}/missing:v1"
    assert caught.value.details() == (
        f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: not found'
    )


@needs_registry
async def test_many_pulls_at_once(cri_client: Client, host: str) -> None:
    files = app(*(bytes([number]) * 200_000 for number in range(8)))
    await push(host, "app", "v1", files)
    assert set(await asyncio.gather(*(pull(cri_client, f"{host}/app:v1") for _ in range(5)))) == {files.config}


async def test_nobody_answers(cri_client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="connection refused") as caught:
        await pull(cri_client, "127.0.0.1:1/app:v1")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_an_invalid_name(cri_client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="invalid reference format"):
        await pull(cri_client, "a//b:v1")


class Odd:
    """A registry with token authentication whose blobs break off; it keeps count."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files
        self.break_after: int | None = None
        self.wrong_blobs = False
        self.ranges: list[str] = []
        self.address = ""

    async def token(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:secret").decode():
            return web.Response(status=401)
        assert request.query["scope"] == "repository:app:pull"
        return web.json_response({"token": "good"})

    async def get(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer good":
            challenge = f'Bearer realm="http://{self.address}/token",service="odd",scope="repository:app:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        kind, name = request.match_info["kind"], request.match_info["name"]
        data = self.files.blobs[self.files.manifest if kind == "manifests" else name]
        if kind == "manifests":
            return web.Response(body=data, content_type="application/vnd.oci.image.manifest.v1+json")
        if self.wrong_blobs and len(data) > 5000:
            data = bytes(len(data))
        asked = request.headers.get("Range", "")
        if asked:
            self.ranges.append(asked)
            return web.Response(status=206, body=data[int(asked[6:-1]) :])
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        if self.break_after is not None and len(data) > self.break_after:
            await response.write(data[: self.break_after])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data)
        return response


@pytest.fixture
async def odd() -> AsyncIterator[Odd]:
    content = b"".join(number.to_bytes(4, "big") for number in range(100_000))
    found = Odd(image([tar(Entry("big", content))], how="none"))
    server = web.Application()
    server.add_routes([web.get("/token", found.token), web.get("/v2/app/{kind}/{name}", found.get)])
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.address = "{}:{}".format(*runner.addresses[0][:2])
    yield found
    await runner.cleanup()


async def test_token_authentication(cri_client: Client, odd: Odd) -> None:
    name = f"{odd.address}/app:v1"
    with pytest.raises(grpc.aio.AioRpcError, match="pull access denied") as caught:
        await pull(cri_client, name)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError, match="failed to fetch oauth token"):
        await pull(cri_client, name, username="me", password="wrong")
    assert await pull(cri_client, name, username="me", password="secret") == odd.files.config
    assert await pull(cri_client, name, auth=base64.b64encode(b"me:secret").decode()) == odd.files.config


async def test_a_broken_download_is_continued(cri_client: Client, odd: Odd) -> None:
    odd.break_after = 150_000
    name = f"{odd.address}/app:v1"
    assert await pull(cri_client, name, username="me", password="secret") == odd.files.config
    assert odd.ranges == ["bytes=150000-"]


async def test_a_wrong_blob_is_refused(cri_client: Client, odd: Odd) -> None:
    odd.wrong_blobs = True
    with pytest.raises(grpc.aio.AioRpcError, match="unexpected commit digest"):
        await pull(cri_client, f"{odd.address}/app:v1", username="me", password="secret")
    assert not list((cri_client.options.images / "ingest").glob("*.partial"))


@needs_registry
async def test_a_mirror(base: Path, host: str) -> None:
    files = app(b"mirrored")
    await push(host, "library/app", "v1", files)
    mirrors = RegistryOptions(mirrors={"docker.io": (f"http://{host}",)})
    async with serving(options_in(base, registry=mirrors)) as client:
        assert await pull(client, "app:v1") == files.config
        found = await client.images.ListImages(cri.ListImagesRequest())
        assert "docker.io/library/app:v1" in [tag for entry in found.images for tag in entry.repo_tags]


@needs_registry
async def test_from_another_network_namespace(base: Path) -> None:
    """The registry listens on the loopback interface of a namespace that is not the runtime's."""
    pins = base / "elsewhere"
    namespaces.create(pins, ["net"], hostname="", sysctls={})
    files = app(b"elsewhere")
    try:
        async with registry(netns=pins / "net") as address:
            there = LoopElsewhere(pins / "net")
            await there.run(lambda: push(address, "app", "v1", files))
            there.close()
            options = options_in(base, registry=RegistryOptions(netns=pins / "net"))
            async with serving(options) as client:
                assert await pull(client, f"{address}/app:v1") == files.config
                # Workers stay at home: a container on the node's network is on this process's.
                sandbox = await client.sandbox(edit=on_the_node)
                assert await client.output(sandbox, "readlink", "/proc/self/ns/net") == own_network()
    finally:
        namespaces.remove(pins)


def own_network() -> str:
    return os.readlink("/proc/self/ns/net")


def on_the_node(config: cri.PodSandboxConfig) -> None:
    config.linux.security_context.namespace_options.network = cri.NODE


@pytest.mark.parametrize("name", ["127.0.0.1:1/team/app:v1", "no-such-host.invalid/team/app:v1"])
async def test_made_here_and_no_registry_to_ask(
    cri_client: Client, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Always pull, an image assembled, built or imported on this machine, and a registry that is not there."""
    store = ImageStore(cri_client.options.images)
    made = msgspec.structs.replace(store.images()[0], tags=(name,), pinned=True)
    store.add(made)
    assert await pull(cri_client, name) == made.id
    assert "using the image of this name that was made on this machine" in caplog.text


async def test_once_pulled_is_not_made_here(cri_client: Client) -> None:
    store = ImageStore(cri_client.options.images)
    name = "127.0.0.1:1/team/app:v1"
    store.add(msgspec.structs.replace(store.images()[0], id=f"sha256:{'1' * 64}", tags=(name,), pinned=False))
    with pytest.raises(grpc.aio.AioRpcError, match="connection refused"):
        await pull(cri_client, name)


@needs_registry
async def test_made_here_but_the_registry_says_otherwise(cri_client: Client, host: str, odd: Odd) -> None:
    """Where a registry answers, what it says counts: not there, or not allowed."""
    store = ImageStore(cri_client.options.images)
    names = (f"{host}/team/app:v1", f"{odd.address}/app:v1")
    store.add(msgspec.structs.replace(store.images()[0], tags=names, pinned=True))
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await pull(cri_client, names[0])
    with pytest.raises(grpc.aio.AioRpcError, match="pull access denied"):
        await pull(cri_client, names[1])
