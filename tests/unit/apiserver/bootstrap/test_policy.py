"""The bootstrap roles against those of a real v1.36 server, where recordings of it are at hand."""

import json
from typing import Any

import pytest

from tests.shared_data import DATA, needs_shared
from tiphys.apiserver.bootstrap.policy import bootstrap_objects

OBJECTS = {
    (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
    for item in bootstrap_objects()
}


def recorded() -> list[Any]:
    found = []
    for path in sorted((DATA / "golden" / "bootstrap").glob("boot-*role*.json")) if DATA.is_dir() else []:
        body = json.loads(path.read_text())["steps"][0]["response"]["body"]
        found.append(pytest.param(body, id=path.stem))
    return found


@needs_shared
@pytest.mark.parametrize("body", recorded())
def test_a_role_is_as_recorded(body: dict[str, Any]) -> None:
    ours = OBJECTS[(body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"])]
    assert ours["metadata"]["labels"] == body["metadata"]["labels"]
    for key in ("rules", "aggregationRule", "roleRef", "subjects"):
        assert (ours.get(key) or None) == (body.get(key) or None), key


def test_every_binding_names_a_role_that_exists() -> None:
    for (kind, namespace, name), item in OBJECTS.items():
        if kind.endswith("Binding"):
            reference = item["roleRef"]
            assert (reference["kind"], namespace, reference["name"]) in OBJECTS, name
