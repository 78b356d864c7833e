"""Field ownership: recorded applies and updates, and what no recording shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.shared_data import needs_shared
from tests.unit.machinery.golden import Step, cases, steps
from tiphys.api.schemas import schema_of
from tiphys.api.table import Resource, resource_by_path
from tiphys.machinery.codec import decode_yaml
from tiphys.machinery.errors import ConflictError, StatusError
from tiphys.machinery.normalize import decoded, normalize
from tiphys.machinery.patch.apply import Applied, server_side_apply, update_managed_fields
from tiphys.machinery.patch.managed import ANCIENT, MAX_UPDATERS, same_but_times

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG_MAP = schema_of("", "v1", "ConfigMap")


def config(data: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    obj: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}}
    return obj if data is None else {**obj, "data": data}


def applied(live: dict[str, Any] | None, obj: dict[str, Any], manager: str, *, force: bool = False) -> Applied:
    out = server_side_apply(live, obj, manager, force, CONFIG_MAP, NOW, api_version="v1")
    return out._replace(object=normalize(out.object, CONFIG_MAP))


def owners(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in entries}


def test_a_field_that_its_only_applier_drops_goes() -> None:
    live = applied(None, config({"a": "1", "b": "1"}), "one").object
    after = applied(live, config({"a": "1"}), "one")
    assert after.object["data"] == {"a": "1"}
    assert owners(after.managed_fields) == {"one": {"f:data": {"f:a": {}}}}


def test_a_field_that_another_still_applies_stays() -> None:
    live = applied(None, config({"a": "1", "b": "1"}), "one").object
    live = applied(live, config({"b": "1"}), "two").object
    after = applied(live, config({"a": "1"}), "one")
    assert after.object["data"] == {"a": "1", "b": "1"}
    assert owners(after.managed_fields) == {"one": {"f:data": {"f:a": {}}}, "two": {"f:data": {"f:b": {}}}}


def test_another_value_is_a_conflict_and_force_takes_it() -> None:
    live = applied(None, config({"a": "1"}), "one").object
    with pytest.raises(ConflictError, match=r'conflict with "one": \.data\.a'):
        applied(live, config({"a": "2"}), "two")
    after = applied(live, config({"a": "2"}), "two", force=True)
    assert owners(after.managed_fields) == {"two": {"f:data": {"f:a": {}}}}


def test_applying_the_same_again_changes_nothing() -> None:
    live = applied(None, config({"a": "1"}), "one").object
    later = server_side_apply(
        live, config({"a": "1"}), "one", False, CONFIG_MAP, NOW + timedelta(hours=1), api_version="v1"
    )
    assert not later.changed
    assert later.object == live


def test_only_so_many_updaters_are_told_apart() -> None:
    live = config({})
    live["metadata"]["managedFields"] = update_managed_fields(None, live, "m", CONFIG_MAP, NOW, api_version="v1")
    live["data"] = {}
    for i in range(MAX_UPDATERS + 3):
        new = {**live, "data": {**live["data"], f"k{i}": "x"}, "metadata": {**live["metadata"]}}
        before = live if i else None
        now = NOW + timedelta(seconds=i)
        entries = update_managed_fields(before, new, f"m{i:02}", CONFIG_MAP, now, api_version="v1")
        new["metadata"]["managedFields"] = entries
        live = new
    assert len(entries) == MAX_UPDATERS
    assert owners(entries)[ANCIENT]["f:data"] == {".": {}, **{f"f:k{i}": {} for i in range(4)}}


def test_an_object_without_owners_is_not_tracked_until_its_first_apply() -> None:
    live = config({"a": "1"})
    assert update_managed_fields(live, config({"a": "2"}), "up", CONFIG_MAP, NOW, api_version="v1") == []
    with pytest.raises(ConflictError, match=r'conflict with "before-first-apply" using v1: \.data\.a'):
        applied(live, config({"a": "2"}), "one")


def test_an_empty_list_is_owned_though_it_is_not_stored() -> None:
    schema = schema_of("storage.k8s.io", "v1", "CSINode")
    node = decoded({"metadata": {"name": "n"}, "spec": {"drivers": []}}, schema)
    entries = update_managed_fields(None, node, "m", schema, NOW, api_version="storage.k8s.io/v1")
    assert owners(entries) == {"m": {"f:spec": {"f:drivers": {}}}}


def test_entries_that_differ_in_time_only_are_the_same() -> None:
    entries = applied(None, config({"a": "1"}), "one").managed_fields
    later = [{**entry, "time": "2027-01-01T00:00:00Z"} for entry in entries]
    assert same_but_times(entries, later)
    assert not same_but_times(entries, [])


def target(step: Step) -> tuple[Resource, str] | None:
    """(resource, subresource) of a request to an object or a collection."""
    parts = step.path.strip("/").split("/")
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in {"finalize", "status"}:
        rest = rest[2:]
    resource = resource_by_path(group, version, rest[0])
    return None if resource is None else (resource, rest[2] if len(rest) > 2 else "")


# HPAs through two versions need the converter that the registry has.
CONVERTED = {"apply-versions"}


@needs_shared
@pytest.mark.parametrize("path", cases("apply/*"), ids=lambda path: path.stem)
def test_recorded_applies(path: Any) -> None:
    live: dict[str, Any] = {}
    for step in steps(path):
        found = target(step) if path.stem not in CONVERTED else None
        if found is None or step.setup or step.query.get("dryRun") or not isinstance(step.answer, dict):
            continue
        resource, subresource = found
        key = f"{resource.plural}/{step.path.rpartition('/')[2]}"
        if step.content_type == "application/apply-patch+yaml" and not subresource:
            check_apply(step, resource, live.get(key))
        if step.answer.get("kind") == resource.kind:
            live[f"{resource.plural}/{step.answer['metadata']['name']}"] = step.answer


def check_apply(step: Step, resource: Resource, live: dict[str, Any] | None) -> None:
    if step.answer["kind"] == "Status" and step.status not in {409, 500}:
        return
    obj = step.body if isinstance(step.body, dict) else decode_yaml(step.body).value
    schema = schema_of(resource.group, resource.version, resource.kind)
    ignored = {"f:status": {}} if "status" in schema.fields else {}
    if resource.kind == "CertificateSigningRequest":
        ignored["f:spec"] = {}
    manager, force = step.query.get("fieldManager", ""), step.query.get("force") == "true"
    call = (live, obj, manager, force, schema, NOW)
    if step.answer["kind"] == "Status":
        if "has been modified" not in step.answer["message"]:
            with pytest.raises(StatusError) as error:
                server_side_apply(*call, api_version=resource.api_version, ignored=ignored)
            assert error.value.status["message"] == step.answer["message"]
        return
    out = server_side_apply(*call, api_version=resource.api_version, ignored=ignored)
    assert by_owner(out.managed_fields) == by_owner(step.answer["metadata"].get("managedFields", [])), step


def by_owner(entries: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    return {(e["manager"], e["operation"], e["apiVersion"], e.get("subresource", "")): e for e in entries}


@needs_shared
def test_recorded_updates_of_metadata() -> None:
    """PUTs that change labels and annotations: nothing but the request changes these objects."""
    seen = 0
    for path in cases("update/*-meta"):
        live: dict[str, Any] = {}
        for step in steps(path):
            found = target(step)
            if found is None or not isinstance(step.answer, dict) or step.answer.get("kind") != found[0].kind:
                continue
            resource, subresource = found
            name = step.answer["metadata"]["name"]
            before = live.get(name)
            if step.method in {"PUT", "PATCH"} and before is not None and not subresource and not step.setup:
                schema = schema_of(resource.group, resource.version, resource.kind)
                new = {**step.answer, "metadata": {**step.answer["metadata"], "managedFields": None}}
                entries = update_managed_fields(
                    before,
                    new,
                    step.query.get("fieldManager", "golden"),
                    schema,
                    NOW,
                    api_version=resource.api_version,
                    ignored={"f:status": {}} if "status" in schema.fields else None,
                )
                assert by_owner(entries) == by_owner(step.answer["metadata"].get("managedFields", [])), step
                seen += 1
            live[name] = step.answer
    assert seen > 20
