"""Metadata sliced out of the bytes is what decoding would have found."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import ALL_RESOURCES
from tiphys.apiserver.endpoints.forms import _end_of_metadata
from tiphys.apiserver.watchcache import Entry, encode_stored

KINDS = sorted(
    {
        (one.group, one.version, one.kind)
        for one in ALL_RESOURCES
        if has_schema(one.group, one.version, one.kind)
        and "metadata" in schema_of(one.group, one.version, one.kind).fields
    }
)
METADATA: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels named like fields": {"labels": {"a": "b", "data": "x", "spec": "x", "status": "y"}},
    "text like the end": {"annotations": {"a": 'x"},"spec":{', "b": '},"status":'}},
    "owned fields": {
        "labels": {},
        "managedFields": [
            {"fieldsV1": {"f:spec": {".": {}, 'k:{"spec":1}': {}, "f:data": {}}}, "subresource": "status"},
            {"fieldsV1": {"f:status": {}}, "time": "2024-01-01T00:00:00Z"},
        ],
    },
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
@pytest.mark.parametrize("value", [{"a": {}}, [{"spec": {}}], "x", None], ids=["object", "list", "text", "null"])
def test_slices_are_what_is_there(metadata: dict[str, Any], value: Any) -> None:
    for group, version, kind in KINDS:
        schema = schema_of(group, version, kind)
        end = _end_of_metadata(schema)
        assert end is not None, kind
        for names in ([], [name for name in schema.fields if name != "metadata"]):
            obj = {"metadata": {"name": "a", "uid": "1" * 36, **metadata}, **dict.fromkeys(names, value)}
            tail = Entry("a", "", "a", encode_stored(obj, kind, version), 5, 5).tail
            found = end.search(tail)
            slice_ = tail[: found.start() + 1] if found is not None else tail[:-1]
            expected = orjson.loads(tail and b"{" + tail)["metadata"]
            assert orjson.loads(b"{%b}" % slice_) == {"metadata": expected}, kind
