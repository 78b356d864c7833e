from __future__ import annotations

import orjson
import pytest

from tests.unit.apiserver.core.objects import make_entry, make_object
from tiphys.apiserver.watchcache import Entry, encode_stored


def test_the_store_holds_no_resource_version_and_metadata_comes_first() -> None:
    obj = {"data": {"a": "1"}, **make_object("x", labels={"l": "1"})}
    obj["metadata"]["resourceVersion"] = "5"
    value = encode_stored(obj, "ConfigMap", "v1")
    assert value.startswith(b'{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x","namespace":"d","uid":"')
    assert b"resourceVersion" not in value
    assert obj["metadata"]["resourceVersion"] == "5"


def test_the_revision_is_spliced_in_behind_the_uid() -> None:
    entry = make_entry("x", 17, labels={"l": "1"}, data={"uid": '"uid":"'})
    obj = entry.parse()
    assert obj["metadata"]["resourceVersion"] == "17"
    assert list(obj["metadata"]) == ["name", "namespace", "uid", "resourceVersion", "labels"]
    assert obj["data"] == {"uid": '"uid":"'}


def test_a_deletion_shows_the_last_state_at_its_own_revision() -> None:
    entry = make_entry("x", 9, data={"a": "1"})
    later = orjson.loads(b"{" + entry.at_revision(1234))
    assert later["metadata"].pop("resourceVersion") == "1234"
    now = entry.parse()
    del now["metadata"]["resourceVersion"]
    assert later == now
    assert orjson.loads(b"{" + entry.moved(10).tail)["metadata"]["resourceVersion"] == "10"
    assert entry.revision == 9


def test_an_object_that_was_never_saved_has_no_resource_version() -> None:
    assert "resourceVersion" not in make_entry("x", 0).parse()["metadata"]


def test_labels_are_parsed_when_nobody_told_them() -> None:
    assert make_entry("x", 1, labels={"a": "b"}).labels == {"a": "b"}
    assert make_entry("x", 1).labels == {}


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b'{"metadata":{}}'])
def test_what_is_no_object_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="not an object of this server"):
        Entry("d/x", "d", "x", value, 1, 1)
