"""Create, read, update, patch and delete over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.apiserver.server import CONFIG_MAPS, PODS, Api, api_server, config_map, pod, state_directory
from tiphys.apiserver.registry.stored import StoredObjects
from tiphys.store import MemoryStore


async def test_the_life_of_an_object(api: Api) -> None:
    made = await api.post(CONFIG_MAPS, config_map("c", {"a": "1"}))
    assert api.status == 201
    assert made["metadata"]["namespace"] == "d"
    read = await api.get(f"{CONFIG_MAPS}/c")
    assert read == made
    read["data"]["a"] = "2"
    changed = await api.put(f"{CONFIG_MAPS}/c", read)
    assert changed["data"] == {"a": "2"}
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    gone = await api.delete(f"{CONFIG_MAPS}/c")
    assert gone["status"] == "Success"
    assert (await api.get(f"{CONFIG_MAPS}/c"))["reason"] == "NotFound"


async def test_a_stale_version_is_a_conflict_and_no_change_is_no_write(api: Api) -> None:
    first = await api.post(CONFIG_MAPS, config_map("c", {"a": "1"}))
    same = await api.put(f"{CONFIG_MAPS}/c", config_map("c", {"a": "1"}))
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await api.put(f"{CONFIG_MAPS}/c", config_map("c", {"a": "2"}))
    refused = await api.put(f"{CONFIG_MAPS}/c", first)
    assert (api.status, refused["reason"]) == (409, "Conflict")
    assert "please apply your changes to the latest version" in refused["message"]


async def test_patches_of_many_clients_all_arrive(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("c"))
    await asyncio.gather(*(api.merge(f"{CONFIG_MAPS}/c", {"data": {f"k{i}": "v"}}) for i in range(40)))
    assert len((await api.get(f"{CONFIG_MAPS}/c"))["data"]) == 40


async def test_generated_names_are_free_names(api: Api) -> None:
    body = {"metadata": {"generateName": "x-"}}
    made = [await api.post(CONFIG_MAPS, body) for _ in range(20)]
    names = {one["metadata"]["name"] for one in made}
    assert len(names) == 20
    assert all(name.startswith("x-") and len(name) == 7 for name in names)


@pytest.mark.parametrize(("version", "status"), [("v1", 201), ("0", 201), ("", 201), ("1", 500)])
async def test_only_a_number_is_a_version_a_new_object_must_not_have(api: Api, version: str, status: int) -> None:
    made = await api.post(CONFIG_MAPS, {"metadata": {"name": "c", "resourceVersion": version}})
    assert api.status == status
    assert made["metadata"].get("resourceVersion") != version
    await api.post(f"{CONFIG_MAPS}?dryRun=All", {"metadata": {"name": "d", "resourceVersion": version}})
    assert api.status == 201


async def test_a_dry_run_leaves_nothing(api: Api) -> None:
    made = await api.post(f"{CONFIG_MAPS}?dryRun=All", config_map("c"))
    assert api.status == 201
    assert "resourceVersion" not in made["metadata"]
    assert (await api.get(f"{CONFIG_MAPS}/c"))["code"] == 404
    kept = await api.post(CONFIG_MAPS, config_map("c", {"a": "1"}))
    await api.call(
        "PATCH", f"{CONFIG_MAPS}/c?dryRun=All", {"data": {"a": "2"}}, Content_Type="application/merge-patch+json"
    )
    await api.delete(f"{CONFIG_MAPS}/c?dryRun=All")
    assert await api.get(f"{CONFIG_MAPS}/c") == kept


async def test_finalizers_hold_an_object_until_the_last_is_gone(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("c", finalizers=["a.b/c", "d.e/f"]))
    marked = await api.delete(f"{CONFIG_MAPS}/c")
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    again = await api.merge(f"{CONFIG_MAPS}/c", {"metadata": {"finalizers": ["a.b/c", "new.x/y"]}})
    assert (api.status, again["reason"]) == (422, "Invalid")
    await api.merge(f"{CONFIG_MAPS}/c", {"metadata": {"finalizers": ["a.b/c"]}})
    assert (await api.get(f"{CONFIG_MAPS}/c"))["metadata"]["finalizers"] == ["a.b/c"]
    await api.merge(f"{CONFIG_MAPS}/c", {"metadata": {"finalizers": None}})
    assert (await api.get(f"{CONFIG_MAPS}/c"))["code"] == 404


@pytest.mark.parametrize("node", ["n", ""])
@pytest.mark.parametrize("again", [{"gracePeriodSeconds": 0}, {}])
async def test_a_deletion_whose_server_died_in_the_middle_is_finished_by_the_next(
    api: Api, monkeypatch: pytest.MonkeyPatch, node: str, again: dict[str, int]
) -> None:
    """A pod is marked and then removed: what the kubelet asks for must not be held for under way for ever."""

    async def die(*_: object) -> None:
        raise ConnectionError("as if the process had ended")

    await api.post(PODS, pod("p", nodeName=node))
    with monkeypatch.context() as broken:
        broken.setattr(StoredObjects, "_erase", die)
        await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
        assert api.status == 500
    left = await api.get(f"{PODS}/p")
    assert left["metadata"]["deletionTimestamp"] and left["metadata"]["deletionGracePeriodSeconds"] == 0
    await api.delete(f"{PODS}/p", again)
    assert api.status == 200
    assert (await api.get(f"{PODS}/p"))["code"] == 404


async def test_a_pod_that_finalizers_hold_is_not_removed_by_asking_again(api: Api) -> None:
    held = pod("p", nodeName="n")
    held["metadata"]["finalizers"] = ["a.b/c"]
    await api.post(PODS, held)
    for _ in range(3):
        await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
        assert api.status == 200
    assert (await api.get(f"{PODS}/p"))["metadata"]["finalizers"] == ["a.b/c"]
    await api.merge(f"{PODS}/p", {"metadata": {"finalizers": None}})
    assert (await api.get(f"{PODS}/p"))["code"] == 404


async def test_a_scheduled_pod_is_deleted_gracefully(api: Api) -> None:
    await api.post(PODS, pod("p", nodeName="n"))
    marked = await api.delete(f"{PODS}/p")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    assert marked["metadata"]["generation"] == 2
    longer = await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 60})
    assert longer["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    shorter = await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    await api.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert (await api.get(f"{PODS}/p"))["code"] == 404


async def test_preconditions_name_the_object_that_is_meant(api: Api) -> None:
    await api.post(CONFIG_MAPS, config_map("c"))
    refused = await api.delete(f"{CONFIG_MAPS}/c", {"preconditions": {"uid": "00000000-0000-0000-0000-000000000001"}})
    assert (api.status, refused["reason"]) == (409, "Conflict")


async def test_a_collection_is_deleted_by_selector(api: Api) -> None:
    for name, env in (("a", "x"), ("b", "y"), ("c", "x")):
        await api.post(CONFIG_MAPS, config_map(name, labels={"env": env}))
    gone = await api.delete(f"{CONFIG_MAPS}?labelSelector=env%3Dx")
    assert [one["metadata"]["name"] for one in gone["items"]] == ["a", "c"]
    left = await api.get(CONFIG_MAPS)
    assert [one["metadata"]["name"] for one in left["items"]] == ["b"]


async def test_unknown_fields_are_warned_of_refused_or_ignored(api: Api) -> None:
    body = {**config_map("c"), "foo": 1}
    await api.post(f"{CONFIG_MAPS}?dryRun=All", body)
    assert api.headers.getall("Warning") == ['299 - "unknown field \\"foo\\""']
    refused = await api.post(f"{CONFIG_MAPS}?fieldValidation=Strict", body)
    assert refused["message"].endswith('strict decoding error: unknown field "foo"')
    await api.post(f"{CONFIG_MAPS}?fieldValidation=Ignore", body)
    assert (api.status, "Warning" in api.headers) == (201, False)


async def test_two_appliers_own_their_fields(api: Api) -> None:
    await api.apply(f"{CONFIG_MAPS}/c", config_map("c", {"a": "1"}), "one")
    assert api.status == 201
    await api.apply(f"{CONFIG_MAPS}/c", config_map("c", {"b": "1"}), "two")
    refused = await api.apply(f"{CONFIG_MAPS}/c", config_map("c", {"a": "2", "b": "1"}), "two")
    assert (api.status, refused["message"]) == (409, 'Apply failed with 1 conflict: conflict with "one": .data.a')
    forced = await api.apply(f"{CONFIG_MAPS}/c", config_map("c", {"a": "2", "b": "1"}), "two", force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    dropped = await api.apply(f"{CONFIG_MAPS}/c", config_map("c", {"a": "2"}), "two")
    assert dropped["data"] == {"a": "2"}


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    where = state_directory(tmp_path / "state")
    async with api_server(state=where) as api:
        made = await api.post(CONFIG_MAPS, config_map("c", {"a": "1"}, labels={"l": "1"}))
    async with api_server(state=where) as api:
        assert await api.get(f"{CONFIG_MAPS}/c") == made
        found = await api.get(f"{CONFIG_MAPS}?labelSelector=l%3D1")
        assert len(found["items"]) == 1


async def test_events_go_by_themselves() -> None:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "d", "name": "p"},
        "message": "m",
    }
    store = await MemoryStore().start()
    async with api_server(store, event_ttl_seconds=120) as api:
        await api.post("/api/v1/namespaces/d/events", event)
        await api.post(CONFIG_MAPS, config_map("stays"))
        kept = await store.range("/registry/core/", "/registry/core0")
        leases = {item.key.rsplit("/", 1)[1]: item.lease for item in kept.items}
        assert leases["stays"] == 0
        assert leases["e"] != 0
        await store.revoke_lease(leases["e"])  # what happens when its time is up
        assert (await api.get("/api/v1/namespaces/d/events/e"))["code"] == 404
    await store.close()
