"""Protobuf bodies of the API's kinds, by the generated table of messages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson

from tiphys.api.schemas import type_name
from tiphys.machinery.codec.protobuf import Message, ProtobufError, Table, decode_envelope, encode_envelope
from tiphys.machinery.meta import split_api_version

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"


@cache
def table() -> Table:
    """Every message of the API."""
    return Table(orjson.loads((Path(__file__).parent / "data" / "protobuf.json").read_bytes()))


def message_of(api_version: str, kind: str) -> Message:
    """The message of a kind. Raises KeyError for a kind without protobuf (a custom resource, a Table)."""
    group, version = split_api_version(api_version)
    name = type_name(group, version, kind)
    facts = table().facts
    if name not in facts:
        # PartialObjectMetadata, Table's options and the like live in meta.k8s.io.
        name = f"meta.v1.{kind}" if group in {"", "meta.k8s.io"} else name
    if name not in facts:
        raise KeyError(f"{api_version}, Kind={kind}")
    return table()[name]


def encode_object_protobuf(obj: dict[str, Any]) -> bytes:
    """An object (plain JSON values with apiVersion and kind) as a protobuf body. Raises KeyError as `message_of`."""
    api_version, kind = obj.get("apiVersion", ""), obj.get("kind", "")
    return encode_envelope(api_version, kind, message_of(api_version, kind).encode(obj))


def decode_object_protobuf(data: bytes) -> dict[str, Any]:
    """The object of a protobuf body, as plain JSON values; not in normal form.

    Raises ProtobufError (a ValueError), and KeyError for an unknown kind.
    """
    api_version, kind, raw = decode_envelope(data)
    value = message_of(api_version, kind).decode(raw)
    if not isinstance(value, dict):
        raise ProtobufError(f"{kind} is no kind")
    return {"kind": kind, "apiVersion": api_version, **value}
