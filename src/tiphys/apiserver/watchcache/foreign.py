"""Objects as kube-apiserver stores them: built-in ones in protobuf, custom ones in JSON with sorted fields.

They are read as what they say, in this server's own form; the next update writes them in it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from tiphys.api.protobuf import decode_object_protobuf
from tiphys.api.schemas import has_schema, schema_of
from tiphys.apiserver.watchcache.entry import Entry, encode_stored
from tiphys.machinery.codec.protobuf import MAGIC
from tiphys.machinery.meta import split_api_version
from tiphys.machinery.normalize import normalize
from tiphys.store.interface import KeyValue


def as_own(value: bytes) -> bytes | None:
    """The bytes this server would store for an object another has stored; None when it is no object."""
    try:
        if value.startswith(MAGIC):
            obj = decode_object_protobuf(value)
        elif value.startswith(b"{"):
            obj = orjson.loads(value)
        else:
            return None
        return _own(obj)
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.MsgspecError):
        return None


def _own(obj: dict[str, Any]) -> bytes | None:
    kind, api_version = obj["kind"], obj["apiVersion"]
    if not obj["metadata"].get("uid"):
        return None
    obj["metadata"].pop("resourceVersion", None)
    group, version = split_api_version(api_version)
    if has_schema(group, version, kind):
        obj = normalize(obj, schema_of(group, version, kind))
    return encode_stored(obj, kind, api_version)


def entry_of(kv: KeyValue, own: str) -> Entry:
    """The entry of a value, whoever has stored it; `own` is its key behind the resource's. Raises ValueError."""
    namespace, _, name = own.rpartition("/")
    try:
        return Entry(own, namespace, name, kv.value, kv.mod_revision, kv.create_revision)
    except ValueError:
        theirs = as_own(kv.value)
        if theirs is None:
            raise
        return Entry(own, namespace, name, theirs, kv.mod_revision, kv.create_revision)
