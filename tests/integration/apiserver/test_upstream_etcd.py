"""An etcd that kube-apiserver has written to, and can read: the same places, and objects in its forms."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import etcd
from tests.integration.apiserver.server import Api, api_server, config_map
from tiphys.apiserver.watchcache.foreign import as_own
from tiphys.store import Store, open_store

# Written by kube-apiserver v1.36: `kubectl create configmap a --from-literal=x=1`.
CONFIG_MAP = base64.b64decode(
    "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEqQBCpkBCgFhEgAaB2RlZmF1bHQiACokMTk3Yjk3MjMtOWFlYi00NTc3LWFkZjMtNWZmNzllYWE2OWMyMgA4"
    "AEIICPzphNgGEACKAVIKDmt1YmVjdGwtY3JlYXRlEgZVcGRhdGUaAnYxIggI/OmE2AYQADIIRmllbGRzVjE6HgoceyJmOmRhdGEiOnsiLiI6e30s"
    "ImY6eCI6e319fUIAEgYKAXgSATEaACIA"
)
# As it stores custom resources: sorted fields, so that another uid may come before the object's own.
WIDGET = (
    b'{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,'
    b'"name":"a","namespace":"default","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n",'
    b'"uid":"03513410-548f-4215-a4e2-7b8e799512ed"}],"uid":"8994da9d-f8fa-432a-a443-c47a42ebefd5"},"spec":{"a":1}}\n'
)
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[tuple[Store, str]]:
    """etcd as it is, and its URL."""
    if not etcd.programs():
        pytest.skip(etcd.WHY_NOT)
    with etcd.EtcdCluster(tmp_path, program=etcd.programs()[0], durable=False) as cluster:
        store = await open_store(cluster.urls[0])
        yield store, cluster.urls[0]
        await store.close()


async def names(api: Api) -> list[str]:
    return [one["metadata"]["name"] for one in (await api.get(MAPS))["items"]]


async def test_what_upstream_wrote_is_read_and_written_anew(raw: tuple[Store, str]) -> None:
    store, url = raw
    await store.create("/registry/configmaps/default/a", CONFIG_MAP)
    async with api_server(state=url) as api:
        found = await api.get(f"{MAPS}/a")
        assert found["data"] == {"x": "1"}
        assert found["metadata"]["managedFields"][0]["manager"] == "kubectl-create"
        named_b = CONFIG_MAP.replace(b"\n\x01a\x12", b"\n\x01b\x12")
        await store.create("/registry/configmaps/default/b", named_b)  # while we run
        assert await names(api) == ["a", "b"]
        first = found["metadata"]["resourceVersion"]
        changed = await api.merge(f"{MAPS}/a", {"data": {"y": "2"}})
        assert changed["data"] == {"x": "1", "y": "2"}
        older = await api.get(f"{MAPS}?resourceVersion={first}&resourceVersionMatch=Exact")
        assert [one["data"] for one in older["items"]] == [{"x": "1"}]
        events = await api.events(f"{MAPS}?watch=1&resourceVersion={first}", 2)
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED"]
    kept = await store.get("/registry/configmaps/default/a")
    assert kept is not None
    assert kept.value.startswith(b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"')


async def test_what_we_write_is_where_upstream_looks(raw: tuple[Store, str]) -> None:
    store, url = raw
    async with api_server(state=url) as api:
        await api.post(MAPS, config_map("a"))
        await api.post("/api/v1/nodes", {"kind": "Node", "metadata": {"name": "n"}})
        ports = {"ports": [{"port": 80}], "clusterIP": "None", "selector": {"a": "b"}}
        await api.post("/api/v1/namespaces/default/services", {"metadata": {"name": "s"}, "spec": ports})
    for key in ("configmaps/default/a", "minions/n", "services/specs/default/s"):
        assert await store.get(f"/registry/{key}") is not None, key


def test_custom_resources_with_sorted_fields() -> None:
    assert as_own(WIDGET) == (
        b'{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"a","namespace":"default",'
        b'"uid":"8994da9d-f8fa-432a-a443-c47a42ebefd5","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z",'
        b'"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"03513410-548f-4215-a4e2-7b8e799512ed"}]},'
        b'"spec":{"a":1}}'
    )


NO_OBJECTS = [b"", b"abc", b"{", b"{}", b"[]", b'{"kind":"A","apiVersion":"v1","metadata":{}}', b"k8s\0", b"k8s\0abc"]


@pytest.mark.parametrize("value", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_what_is_no_object(value: bytes) -> None:
    assert as_own(value) is None
