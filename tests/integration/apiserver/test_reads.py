"""Lists, watches, forms of answers."""

from __future__ import annotations

import gzip
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.integration.apiserver.server import CONFIG_MAPS, PODS, Api, api_server, config_map, pod
from tiphys.api.protobuf import decode_object_protobuf, encode_object_protobuf
from tiphys.store import MemoryStore

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
PROTOBUF = "application/vnd.kubernetes.protobuf"


def names(found: Any) -> list[str]:
    return [one["metadata"]["name"] for one in found["items"]]


async def fill(api: Api, count: int) -> None:
    for i in range(count):
        await api.post(CONFIG_MAPS, config_map(f"c{i}", {"i": str(i)}, labels={"even": str(i % 2 == 0).lower()}))


async def test_pages_are_one_consistent_list(api: Api) -> None:
    await fill(api, 5)
    first = await api.get(f"{CONFIG_MAPS}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    await api.delete(f"{CONFIG_MAPS}/c3")
    await api.post(CONFIG_MAPS, config_map("c35"))
    rest = await api.get(f"{CONFIG_MAPS}?continue={first['metadata']['continue']}")
    assert names(first) + names(rest) == ["c0", "c1", "c2", "c3", "c4"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert names(await api.get(CONFIG_MAPS)) == ["c0", "c1", "c2", "c35", "c4"]


async def test_a_list_at_an_exact_version_and_at_one_that_is_gone() -> None:
    store = await MemoryStore().start()
    async with api_server(store) as api:
        await fill(api, 3)
        old = (await api.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
        await api.delete(f"{CONFIG_MAPS}/c1")
        exact = f"{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=Exact"
        assert names(await api.get(exact)) == ["c0", "c1", "c2"]
        await store.compact(await store.current_revision())
        gone = await api.get(exact)
        assert (api.status, gone["reason"]) == (410, "Expired")
    await store.close()


async def test_selectors(api: Api) -> None:
    await fill(api, 4)
    assert names(await api.get(f"{CONFIG_MAPS}?labelSelector=even%3Dtrue")) == ["c0", "c2"]
    assert names(await api.get(f"{CONFIG_MAPS}?fieldSelector=metadata.name%21%3Dc1")) == ["c0", "c2", "c3"]
    refused = await api.get(f"{CONFIG_MAPS}?fieldSelector=data.i%3D1")
    assert (api.status, refused["reason"]) == (400, "BadRequest")


async def test_a_watch_sees_the_state_and_then_every_change(api: Api) -> None:
    await fill(api, 2)
    found: list[Any] = []
    async with api.session.get(f"{CONFIG_MAPS}?watch=1") as answer:
        found += [json.loads(await answer.content.readline()) for _ in range(2)]
        await api.merge(f"{CONFIG_MAPS}/c0", {"data": {"x": "1"}})
        await api.delete(f"{CONFIG_MAPS}/c1")
        await api.post(CONFIG_MAPS, config_map("c2"))
        found += [json.loads(await answer.content.readline()) for _ in range(3)]
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in found] == [
        ("ADDED", "c0"),
        ("ADDED", "c1"),
        ("MODIFIED", "c0"),
        ("DELETED", "c1"),
        ("ADDED", "c2"),
    ]
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in found]
    assert versions == sorted(versions)


async def test_a_watch_resumes_from_history_and_from_the_store_behind_it() -> None:
    store = await MemoryStore().start()
    async with api_server(store) as api:
        start = (await api.get(CONFIG_MAPS))["metadata"]["resourceVersion"]
        await fill(api, 4)
        path = f"{CONFIG_MAPS}?watch=1&resourceVersion={start}"
        assert [one["object"]["metadata"]["name"] for one in await api.events(path, 4)] == ["c0", "c1", "c2", "c3"]
        kind = api.server.cache.kind("", "configmaps")
        assert kind is not None
        kind.cache.history.clear()
        kind.cache.oldest_revision = api.server.cache.revision
        assert [one["object"]["metadata"]["name"] for one in await api.events(path, 4)] == ["c0", "c1", "c2", "c3"]
        await store.compact(await store.current_revision())
        (error,) = await api.events(path, 2)
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
    await store.close()


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    await fill(api, 1)
    query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    added, bookmark = await api.events(f"{CONFIG_MAPS}?{query}", 2)
    assert added["type"] == "ADDED"
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_bookmark_is_an_object_of_the_kind(api: Api) -> None:
    query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    (plain,) = await api.events(f"{PODS}?{query}", 1)
    assert (plain["object"]["spec"], plain["object"]["status"]) == ({"containers": None}, {})
    (table,) = await api.events(f"{CONFIG_MAPS}?{query}", 1, Accept=TABLE)
    (row,) = table["object"]["rows"]
    assert row["cells"] == ["", 0, "<unknown>"]
    assert row["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_errors_come_in_the_encoding_asked_for(api: Api) -> None:
    async with api.session.get(f"{CONFIG_MAPS}/none", headers={"Accept": "application/yaml"}) as answer:
        assert (answer.status, answer.content_type) == (404, "application/yaml")
        assert (await answer.text()).startswith("apiVersion: v1\ncode: 404\n")


async def test_objects_without_a_namespace_are_selected_by_none(api: Api) -> None:
    path = "/apis/storage.k8s.io/v1/storageclasses?fieldSelector=metadata.namespace%3D"
    assert (await api.get(path + "x"))["items"] == []
    assert api.status == 200


async def test_a_watch_ends_when_its_time_is_up(api: Api) -> None:
    assert await api.events(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1", 1) == []
    assert api.status == 200


async def test_a_watch_by_field_follows_a_pod_to_its_node(api: Api) -> None:
    await api.post(PODS, pod("p"))
    start = (await api.get(PODS))["metadata"]["resourceVersion"]
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    await api.post(f"{PODS}/p/binding", binding)
    assert api.status == 201
    path = f"{PODS}?watch=1&resourceVersion={start}&fieldSelector=spec.nodeName%3D"
    assert (await api.events(path + "n1", 1))[0]["type"] == "ADDED"
    assert (await api.events(path, 1))[0]["type"] == "DELETED"
    again = await api.post(f"{PODS}/p/binding", binding)
    assert (api.status, again["reason"]) == (409, "Conflict")


async def test_a_binding_takes_away_the_node_that_was_expected(api: Api) -> None:
    await api.post(PODS, pod("p"))
    made = await api.get(f"{PODS}/p")
    made["status"]["nominatedNodeName"] = "n2"
    said = await api.call("PUT", f"{PODS}/p/status", made)
    assert (api.status, said["status"]["nominatedNodeName"]) == (200, "n2")
    await api.post(f"{PODS}/p/binding", {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}})
    found = await api.get(f"{PODS}/p")
    assert found["spec"]["nodeName"] == "n1" and "nominatedNodeName" not in found["status"]


async def test_tables_have_columns_and_rows(api: Api) -> None:
    await fill(api, 2)
    table = await api.get(CONFIG_MAPS, Accept=TABLE)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert [row["cells"][:2] for row in table["rows"]] == [["c0", 1], ["c1", 1]]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    partial = await api.get(CONFIG_MAPS, Accept=PARTIAL)
    assert "data" not in partial["items"][0]


async def test_protobuf_both_ways(api: Api) -> None:
    body = encode_object_protobuf({"apiVersion": "v1", **config_map("c", {"a": "1"})})
    data = await api.raw("POST", CONFIG_MAPS, body, Content_Type=PROTOBUF, Accept=PROTOBUF)
    assert decode_object_protobuf(data)["data"] == {"a": "1"}
    assert (await api.get(f"{CONFIG_MAPS}/c"))["data"] == {"a": "1"}


async def test_yaml_out_and_in(api: Api) -> None:
    await api.raw("POST", CONFIG_MAPS, "metadata: {name: c}\ndata: {a: 'yes'}\n", Content_Type="application/yaml")
    text = await api.raw("GET", f"{CONFIG_MAPS}/c", Accept="application/yaml")
    assert text.startswith(b'apiVersion: v1\ndata:\n  a: "yes"\nkind: ConfigMap\n')


async def test_large_answers_are_compressed_for_who_can_read_it(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("big", {"a": "x" * 200_000}))
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(api.url + CONFIG_MAPS, headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert answer.headers["Content-Encoding"] == "gzip"
        packed = await answer.read()
    assert len(packed) < 10_000
    assert gzip.decompress(packed) == await api.raw("GET", CONFIG_MAPS)


async def test_one_event_in_two_apis(api: Api) -> None:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "d", "name": "p"},
        "message": "m",
    }
    await api.post("/api/v1/namespaces/d/events", {**event, "reason": "R", "type": "Normal"})
    other = await api.get("/apis/events.k8s.io/v1/namespaces/d/events/e")
    assert (other["apiVersion"], other["note"], other["regarding"]["name"]) == ("events.k8s.io/v1", "m", "p")
    gone = await api.get("/apis/events.k8s.io/v1/namespaces/d/events/nope")
    assert gone["message"] == 'events.events.k8s.io "nope" not found'


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/nope", 404),
        ("/apis/nope/v1/x", 404),
        ("/api/v1/nope", 404),
        ("/api/v1/namespaces/d/nodes", 404),
        ("/api/v1/pods/x", 404),
        ("/api/v1/namespaces/d/pods/x/nope", 404),
        ("/api/v1/namespaces/d/configmaps/x/status", 404),
        ("/%ff", 400),
        ("/api/v1/pods?limit=%ff", 400),
        ("/readyz", 200),
        ("/livez/etcd", 200),
        ("/livez/nope", 404),
        ("/metrics", 200),
        ("/version", 200),
        ("/", 200),
    ],
)
async def test_paths_answer_with_the_right_code(api: Api, path: str, code: int) -> None:
    async with aiohttp.ClientSession() as session, session.get(URL(api.url + path, encoded=True)) as answer:
        assert answer.status == code
        await answer.read()


async def test_an_event_is_found_by_its_source_whatever_group_it_came_by(api: Api) -> None:
    event = {
        "metadata": {"name": "e", "namespace": "d"},
        "regarding": {"namespace": "d"},
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "type": "Normal",
        "reason": "R",
        "action": "A",
        "reportingController": "c",
        "reportingInstance": "i",
    }
    await api.post("/apis/events.k8s.io/v1/namespaces/d/events", event)
    assert api.status == 201
    found = await api.get("/api/v1/namespaces/d/events?fieldSelector=source%3Dc")
    assert [one["metadata"]["name"] for one in found["items"]] == ["e"]
    await api.get("/apis/events.k8s.io/v1/namespaces/d/events?fieldSelector=source%3Dc")
    assert api.status == 400
