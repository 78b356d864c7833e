"""Encryption at rest, seen by clients and in the store."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import etcd
from tests.integration.apiserver.key_service import key_service
from tests.integration.apiserver.server import CONFIG_MAPS, Object, api_server, config_map
from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.registry.upstream_keys import layout
from tiphys.base.clock import FakeClock
from tiphys.store import EtcdAccess, SQLiteStore, Store, open_store, prefix_end

SECRETS = "/api/v1/namespaces/d/secrets"
STORED = "/registry/core/secrets/d/"
IDENTITY: Object = {"identity": {}}


def key(kind: str, name: str, letter: bytes) -> Object:
    return {kind: {"keys": [{"name": name, "secret": base64.b64encode(letter * 32).decode()}]}}


OLD, NEW = key("aesgcm", "old", b"o"), key("secretbox", "new", b"n")


def write(path: Path, *providers: Object, resources: tuple[str, ...] = ("secrets",)) -> Path:
    rules = [{"resources": list(resources), "providers": list(providers)}]
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}
    path.write_text(yaml.safe_dump({**head, "resources": rules}))
    return path


def secret(name: str, **metadata: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **metadata}, "data": {"x": "c2VzYW1l"}}


async def until(done: Callable[[], bool]) -> None:
    """Wait for what is about to be."""
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def stored(state: str) -> dict[str, bytes]:
    """What the store has of secrets, while no server runs."""
    store = await open_store(state, etcd=EtcdAccess(layout=layout()))
    try:
        found = await store.range(STORED, prefix_end(STORED))
        return {kv.key.removeprefix(STORED): kv.value for kv in found.items}
    finally:
        await store.close()


async def test_values_are_sealed_in_the_store_and_nowhere_else(tmp_path: Path) -> None:
    state, file = str(tmp_path / "state"), write(tmp_path / "e", OLD)
    async with api_server(state=state, encryption_config=file) as api:
        made = await api.post(SECRETS, secret("a"))
        await api.post(CONFIG_MAPS, config_map("a"))
        assert await api.get(f"{SECRETS}/a") == made
        assert len((await api.get(SECRETS))["items"]) == 1
        await api.merge(f"{SECRETS}/a", {"metadata": {"labels": {"l": "1"}}})
        older = await api.get(f"{SECRETS}?resourceVersion={made['metadata']['resourceVersion']}&limit=5")
        assert older["items"][0]["metadata"] == made["metadata"]
        events = await api.events(f"{SECRETS}?watch=1&resourceVersion=1", 2)
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED"]
        assert events[0]["object"] == made
        assert await api.server.store.get(f"{STORED}a") is not None
    values = await stored(state)
    assert values["a"].startswith(b"k8s:enc:aesgcm:v1:old:")
    whole = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert b"c2VzYW1l" not in whole
    async with api_server(state=state, encryption_config=file) as api:
        assert (await api.get(f"{SECRETS}/a"))["data"] == {"x": "c2VzYW1l"}


@pytest.mark.skipif(not etcd.programs(), reason=etcd.WHY_NOT)
async def test_two_servers_over_etcd_read_each_other(tmp_path: Path) -> None:
    file = write(tmp_path / "e", NEW, resources=("*.*",))
    with etcd.EtcdCluster(tmp_path / "etcd", program=etcd.programs()[0], durable=False) as cluster:
        state = cluster.urls[0]
        async with (
            api_server(state=state, encryption_config=file) as one,
            api_server(state=state, encryption_config=file) as two,
        ):
            watching = asyncio.create_task(two.events(f"{SECRETS}?watch=1", 1))
            made = await one.post(SECRETS, secret("a"))
            assert await two.get(f"{SECRETS}/a") == made
            assert (await asyncio.wait_for(watching, 10))[0]["object"] == made
        assert all(value.startswith(b"k8s:enc:secretbox:v1:new:") for value in (await stored(state)).values())


async def test_rotation_rewrites_at_an_update_that_changes_nothing(tmp_path: Path) -> None:
    state, file = str(tmp_path / "state"), write(tmp_path / "e", IDENTITY)
    async with api_server(state=state) as api:
        await api.post(SECRETS, secret("a"))
    for providers, prefix in (
        ((OLD, IDENTITY), b"k8s:enc:aesgcm:v1:old:"),
        ((NEW, OLD), b"k8s:enc:secretbox:v1:new:"),
        ((IDENTITY, NEW), b'{"kind":"Secret"'),
    ):
        write(file, *providers)
        async with api_server(state=state, encryption_config=file) as api:
            before = await api.get(f"{SECRETS}/a")
            rewritten = await api.put(f"{SECRETS}/a", before)
            assert int(rewritten["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
            assert (await api.put(f"{SECRETS}/a", rewritten)) == rewritten  # now it is as it should be
            assert rewritten["data"] == before["data"]
        assert (await stored(state))["a"].startswith(prefix)


NOT_THERE = "no matching prefix found"
IN_A_LIST = f'unable to transform key "/registry/secrets/d/a": {NOT_THERE}'
NOT_OPENED = "identity transformer tried to read encrypted data"


@pytest.mark.parametrize(("providers", "why"), [((NEW,), NOT_THERE), ((), NOT_OPENED)], ids=["lost key", "no file"])
async def test_what_nobody_can_read_is_an_error_and_not_absent(
    tmp_path: Path, providers: tuple[Object, ...], why: str
) -> None:
    state, file = str(tmp_path / "state"), write(tmp_path / "e", OLD)
    async with api_server(state=state, encryption_config=file) as api:
        await api.post(SECRETS, secret("a"))
    options: dict[str, Any] = {"encryption_config": write(file, *providers)} if providers else {}
    async with api_server(state=state, **options) as api:
        await api.post(SECRETS, secret("b"))
        for method, path, body in (
            ("GET", f"{SECRETS}/a", None),
            ("DELETE", f"{SECRETS}/a", None),
            ("PUT", f"{SECRETS}/a", secret("a")),
        ):
            answer = await api.call(method, path, body)
            assert (answer["code"], answer["reason"]) == (500, "InternalError")
            assert answer["message"] == f"Internal error occurred: {why}"
            assert answer["details"] == {"causes": [{"message": why}]}
        in_a_list = f'unable to transform key "/registry/secrets/d/a": {why}'
        for path in (SECRETS, "/api/v1/secrets", f"{SECRETS}?fieldSelector=metadata.name%3Da"):
            assert (await api.get(path))["message"] == f"Internal error occurred: {in_a_list}"
        assert (await api.delete(SECRETS))["code"] == 500
        assert (await api.post(SECRETS, secret("a")))["reason"] == "AlreadyExists"
        assert (await api.get(f"{SECRETS}/b"))["metadata"]["name"] == "b"
        assert (await api.get("/api/v1/namespaces/other/secrets"))["items"] == []
        assert [one["metadata"]["name"] for one in (await api.get(f"{SECRETS}?resourceVersion=0"))["items"]] == ["b"]
        (event,) = await api.events(f"{SECRETS}?watch=1", 1)
        assert (event["type"], event["object"]["code"]) == ("ERROR", 500)


async def test_watches_end_when_an_object_becomes_unreadable(tmp_path: Path) -> None:
    file = write(tmp_path / "e", OLD)
    async with api_server(encryption_config=file) as api:
        made = await api.post(SECRETS, secret("a"))
        watching = asyncio.create_task(api.events(f"{SECRETS}?watch=1", 5))
        kind = api.server.cache.kind("", "secrets")
        assert kind is not None
        await until(lambda: len(kind.watchers) > 0)
        inner: Store = api.server.store.inner  # type: ignore[attr-defined]
        await inner.update(f"{STORED}a", b"k8s:enc:foo:v1:", expect=int(made["metadata"]["resourceVersion"]))
        assert [event["type"] for event in await asyncio.wait_for(watching, 10)] == ["ADDED"]
        assert (await api.get(SECRETS))["message"] == f"Internal error occurred: {IN_A_LIST}"
        await inner.delete(f"{STORED}a")
        assert (await api.get(SECRETS))["items"] == []
        assert (await api.post(SECRETS, secret("a")))["kind"] == "Secret"


async def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    from tiphys.apiserver.encryption.keeper import EncryptionKeeper

    store = await SQLiteStore.open(tmp_path / "state")
    keeper = await EncryptionKeeper.open(store, write(tmp_path / "e", OLD), "/registry", FakeClock(), reload=True)
    async with api_server(keeper.store) as api:
        await api.post(SECRETS, secret("a"))
        assert not await keeper.look()
        write(tmp_path / "e", NEW)
        assert await keeper.look()
        await api.post(SECRETS, secret("b"))
        assert await api.server.cache.outdated(f"{STORED}a") is False  # type: ignore[misc]
        (tmp_path / "e").write_text("nonsense")
        assert not await keeper.look()
        write(tmp_path / "e", NEW, OLD)
        assert await keeper.look()
        assert await api.server.cache.outdated(f"{STORED}a") is True  # type: ignore[misc]
        inner = await store.get(f"{STORED}b")
        assert inner is not None
        assert inner.value.startswith(b"k8s:enc:secretbox:v1:new:")
    await store.close()


async def test_lost_keys_that_come_back(tmp_path: Path) -> None:
    state, file = str(tmp_path / "state"), write(tmp_path / "e", OLD)
    async with api_server(state=state, encryption_config=file) as api:
        made = await api.post(SECRETS, secret("a"))
    write(file, NEW)
    async with api_server(state=state, encryption_config=file) as api:
        assert (await api.get(f"{SECRETS}/a"))["code"] == 500
        keeper = api.server.keeper
        assert keeper is not None
        write(file, NEW, OLD)
        assert await keeper.look()
        api.server.cache.read_again()
        await until(lambda: api.server.cache._reloading is None)
        assert await api.get(f"{SECRETS}/a") == made


async def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one keys is required"):
        async with api_server(state=str(tmp_path / "s"), encryption_config=write(tmp_path / "e", {"aesgcm": {}})):
            pass
    await (await SQLiteStore.open(tmp_path / "s")).close()  # it is not held any more


async def test_a_key_service_that_comes_late(tmp_path: Path) -> None:
    """What could not be read while it was away is read when it answers again, and writes are refused meanwhile."""
    endpoint = f"unix://{tmp_path}/kms.sock"
    file = write(tmp_path / "e", {"kms": {"apiVersion": "v2", "name": "ks", "endpoint": endpoint, "timeout": "1s"}})
    state = str(tmp_path / "state")
    async with key_service(endpoint), api_server(state=state, encryption_config=file) as api:
        made = await api.post(SECRETS, secret("a"))
    async with api_server(state=state, encryption_config=file) as api:
        keeper = api.server.keeper
        assert keeper is not None
        assert (await api.get(f"{SECRETS}/a"))["message"].startswith("Internal error occurred: failed to decrypt DEK")
        refused = await api.post(SECRETS, secret("b"))
        assert (refused["code"], refused["reason"]) == (500, "InternalError")
        await api.raw("GET", "/readyz/kms-providers")
        assert api.status == 500
        assert not await keeper.turn()
        async with key_service(endpoint):
            async with asyncio.timeout(20):
                while keeper.store.encryption.services["ks"].problem:
                    await asyncio.sleep(0.05)  # gRPC tries to connect in its own time
                    await keeper.store.encryption.services["ks"].refresh()
            assert await keeper.turn()
            api.server.cache.read_again()
            await until(lambda: api.server.cache._reloading is None)
            assert await api.get(f"{SECRETS}/a") == made
            assert (await api.post(SECRETS, secret("b")))["kind"] == "Secret"
            await api.raw("GET", "/readyz/kms-providers")
            assert api.status == 200
            assert not await keeper.turn()
