"""Protobuf: every kind with every field, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shared_data import DATA, needs_shared
from tiphys.api.protobuf import decode_object_protobuf, encode_object_protobuf, message_of
from tiphys.machinery.codec import decode_json
from tiphys.machinery.codec.protobuf import ProtobufError, decode_envelope, read_varint, varint

# A watch event is the one message that has no kind of its own.
KINDS = [path for path in sorted((DATA / "roundtrip").glob("*.json")) if path.stem != "core.v1.WatchEvent"]


@needs_shared
@pytest.mark.parametrize("path", KINDS, ids=lambda path: path.stem)
def test_every_kind(path: Path) -> None:
    obj, data = decode_json(path.read_bytes()), path.with_suffix(".pb").read_bytes()
    assert encode_object_protobuf(obj) == data
    assert decode_object_protobuf(data) == obj


@needs_shared
def test_a_watch_event() -> None:
    path = DATA / "roundtrip" / "core.v1.WatchEvent"
    message = message_of("v1", "WatchEvent")
    _, _, raw = decode_envelope(path.with_suffix(path.suffix + ".pb").read_bytes())
    event = decode_json(path.with_suffix(path.suffix + ".json").read_bytes())
    assert message.decode(raw) == event
    assert message.encode(event) == bytes(raw)


@given(st.integers(-(2**63), 2**64 - 1))
def test_varints(value: int) -> None:
    data = varint(value)
    assert read_varint(memoryview(data), 0) == (value & 0xFFFFFFFFFFFFFFFF, len(data))


def pod(**spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": spec}


def test_zero_and_absent_are_told_apart_where_the_type_does() -> None:
    zero = decode_object_protobuf(
        encode_object_protobuf(pod(terminationGracePeriodSeconds=0, enableServiceLinks=False))
    )
    assert zero["spec"]["terminationGracePeriodSeconds"] == 0
    assert zero["spec"]["enableServiceLinks"] is False
    absent = decode_object_protobuf(encode_object_protobuf(pod()))
    assert "terminationGracePeriodSeconds" not in absent["spec"]
    assert "enableServiceLinks" not in absent["spec"]


@given(st.binary(max_size=64))
def test_garbage_is_an_error_and_nothing_worse(data: bytes) -> None:
    try:
        message_of("v1", "Pod").decode(memoryview(data))
    except (ProtobufError, UnicodeDecodeError):
        pass


def test_a_body_needs_its_magic_prefix() -> None:
    with pytest.raises(ProtobufError, match="expected prefix"):
        decode_object_protobuf(b"{}")
    with pytest.raises(KeyError):
        message_of("example.com/v1", "Widget")
