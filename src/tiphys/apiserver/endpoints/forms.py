"""Forms: how objects, lists and watch events of one resource look on the wire, for one negotiated answer.

`PlainForm` is the path of nearly every request: bytes from the cache, joined. `ValueForm` decodes, transforms (to the
version asked for, to metadata only) and encodes; `TableForm` makes columns and rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.endpoints.bookmarks import MADE_UP_ANNOTATIONS, bookmark_metadata, bookmark_object
from tiphys.apiserver.endpoints.encoding import encode_event, encode_value
from tiphys.apiserver.endpoints.negotiation import JSON, PARTIAL, PARTIAL_LIST, PROTOBUF, TABLE, Wanted
from tiphys.apiserver.http.response import frame
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import CREATED_AT_COLUMN, Column
from tiphys.apiserver.watchcache import DELETED, CacheEvent, Entry
from tiphys.apiserver.watchcache.entry import METADATA_ORDER
from tiphys.machinery.errors import not_acceptable
from tiphys.machinery.schema import TypeSchema

Object = dict[str, Any]


class ListMeta(Protocol):
    """Metadata of a list."""

    resource_version: str
    continue_token: str
    remaining: int | None


class Form(Protocol):
    """See the module."""

    @property
    def content_type(self) -> str:
        """Of an object or a list."""

    @property
    def stream_type(self) -> str:
        """Of a watch."""

    @property
    def key(self) -> object:
        """Watchers with equal keys share the bytes of their events."""

    def object(self, entry: Entry) -> bytes:
        """One object as a whole answer."""

    def list(self, entries: Sequence[Entry], metadata: Object) -> list[bytes]:
        """A list as a whole answer, in pieces."""

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """One watch event, framed for the chunked stream."""

    def initial(self, entry: Entry) -> bytes:
        """An ADDED event for an object that was there when the watch began, framed."""

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """A BOOKMARK event, framed."""

    def error(self, status: Object) -> bytes:
        """An ERROR event, framed."""


def list_metadata(revision: int, continue_token: str = "", remaining: int | None = None) -> Object:
    """metav1.ListMeta in wire order."""
    metadata: Object = {"resourceVersion": str(revision)}
    if continue_token:
        metadata["continue"] = continue_token
    if remaining:
        metadata["remainingItemCount"] = remaining
    return metadata


def form_for(served: ServedResource, wanted: Wanted, include_object: str, now: Callable[[], datetime]) -> Form:
    """The form of an answer about objects of `served`. StatusError (406) for what it cannot be."""
    if wanted.transform == TABLE:
        return TableForm(served, wanted, include_object, now)
    if wanted.plain and served.conversion is None:
        plain: Form | None = served.plain_form
        if plain is None:
            plain = served.plain_form = PlainForm(served)
        return plain
    if wanted.transform and wanted.media_type == JSON and not wanted.pretty and served.schema is not None:
        return MetadataForm(served, wanted)
    return ValueForm(served, wanted)


class PlainForm:
    """JSON in a version whose shape is the stored one: no parsing, no encoding."""

    content_type: Final = JSON
    stream_type: Final = JSON

    def __init__(self, served: ServedResource) -> None:
        self._served = served
        self._prefix = served.prefix
        resource = served.resource
        self._list_head = b'{"kind":"%bList","apiVersion":"%b","metadata":' % (
            resource.kind.encode(),
            resource.api_version.encode(),
        )

    @property
    def key(self) -> object:
        """The prefix says everything."""
        return self._prefix

    def object(self, entry: Entry) -> bytes:
        """See Form."""
        return self._prefix + entry.tail + b"\n"

    def list(self, entries: Sequence[Entry], metadata: Object) -> list[bytes]:
        """See Form."""
        pieces = [self._list_head, orjson.dumps(metadata), b',"items":[']
        if entries:
            pieces += (b"{", entries[0].tail)
            for entry in entries[1:]:
                pieces += (b",{", entry.tail)
        pieces.append(b"]}\n")
        return pieces

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """See Form."""
        return frame(b'{"type":"%b","object":%b%b}\n' % (kind.encode(), self._prefix, tail_of(event, kind)))

    def initial(self, entry: Entry) -> bytes:
        """See Form."""
        return frame(b'{"type":"ADDED","object":%b%b}\n' % (self._prefix, entry.tail))

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """See Form."""
        value = bookmark_object(self._served, revision, initial_end=initial_end)
        return frame(b'{"type":"BOOKMARK","object":%b}\n' % orjson.dumps(value))

    def error(self, status: Object) -> bytes:
        """See Form."""
        return frame(b'{"type":"ERROR","object":%b}\n' % orjson.dumps(status))


def tail_of(event: CacheEvent, kind: str) -> bytes:
    """The bytes of the object an event carries: after a deletion the last state at the deletion's revision."""
    if kind != DELETED and event.entry is not None:
        return event.entry.tail
    previous = event.previous
    assert previous is not None
    return previous.at_revision(event.revision)


class ValueForm:
    """Everything that needs the decoded object: other versions, encodings, metadata only, indented JSON."""

    def __init__(self, served: ServedResource, wanted: Wanted) -> None:
        self._served = served
        self._wanted = wanted
        self.content_type = wanted.media_type
        self.stream_type = f"{PROTOBUF};stream=watch" if wanted.media_type == PROTOBUF else wanted.media_type

    @property
    def key(self) -> object:
        """Version and negotiated form."""
        return (self._served.resource.api_version, self._wanted)

    def _value(self, tail: bytes) -> Object:
        obj = self._served.store.parse(tail)
        if self._wanted.transform:
            return partial_metadata(obj, self._wanted.meta_version)
        return self._served.from_storage(obj)

    def _encode(self, value: Object) -> bytes:
        return encode_value(value, self._wanted.media_type, pretty=self._wanted.pretty)

    def object(self, entry: Entry) -> bytes:
        """See Form."""
        if self._wanted.transform == PARTIAL_LIST:
            kind = self._served.resource.kind
            group = _internal_group(self._served)
            raise not_acceptable(
                f"you requested {PARTIAL_LIST}, but the requested object is not a list (*{group}.{kind})"
            )
        return self._encode(self._value(entry.tail))

    def list(self, entries: Sequence[Entry], metadata: Object) -> list[bytes]:
        """See Form."""
        resource = self._served.resource
        items: list[Object] | None = [self._value(entry.tail) for entry in entries]
        if self._wanted.transform:
            if self._wanted.transform == PARTIAL:
                group = _internal_group(self._served)
                raise not_acceptable(
                    f"you requested {PARTIAL}, but the requested object is a list (*{group}.{resource.kind}List)"
                )
            head = {"kind": PARTIAL_LIST, "apiVersion": f"meta.k8s.io/{self._wanted.meta_version}"}
            items = items or None
        else:
            head = {"kind": resource.list_kind, "apiVersion": resource.api_version}
            schema = self._served.schema
            if schema is not None and schema.custom:  # these lists say of each item what it is
                metadata = {"continue": "", **metadata}
            else:
                for item in items or ():
                    del item["kind"], item["apiVersion"]
        return [self._encode({**head, "metadata": metadata, "items": items})]

    def _event(self, kind: str, value: Object) -> bytes:
        return frame(encode_event(kind, value, self._wanted.media_type))

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """See Form."""
        return self._event(kind, self._value(tail_of(event, kind)))

    def initial(self, entry: Entry) -> bytes:
        """See Form."""
        return self._event("ADDED", self._value(entry.tail))

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """See Form."""
        if not self._wanted.transform:
            return self._event("BOOKMARK", bookmark_object(self._served, revision, initial_end=initial_end))
        value: Object = {"kind": PARTIAL, "apiVersion": f"meta.k8s.io/{self._wanted.meta_version}"}
        value["metadata"] = bookmark_metadata(revision, initial_end=initial_end)
        return self._event("BOOKMARK", value)

    def error(self, status: Object) -> bytes:
        """See Form."""
        return self._event("ERROR", status)


def _internal_group(served: ServedResource) -> str:
    """The name of upstream's package that has the kind."""
    group = served.resource.group.partition(".")[0]
    return "core" if group in ("", "events") else group


class MetadataForm(ValueForm):
    """Metadata only, in JSON: sliced out of the bytes, where it comes first. What garbage collectors watch.

        "metadata":{"name":…,"managedFields":[…]},"spec":…}
                                                  └─ the first `},"` and a field of the kind

    Behind an object, metadata has no such name: its own are others, those of fieldsV1 have prefixes, and the rest is
    inside of strings.
    """

    def __init__(self, served: ServedResource, wanted: Wanted) -> None:
        super().__init__(served, wanted)
        self._head = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/%b",' % wanted.meta_version.encode()
        self._made_up = MADE_UP_ANNOTATIONS.get(served.resource.kind, "").encode()
        # The stored bytes are of the storage version.
        self._end = _end_of_metadata(served.store.schema)

    def _bytes(self, tail: bytes) -> bytes:
        if self._end is None or (self._made_up and self._made_up in tail):
            return orjson.dumps(self._value(tail))
        found = self._end.search(tail)
        # Without another field the last brace is that of the object.
        return b"%b%b}" % (self._head, tail[: found.start() + 1] if found is not None else tail[:-1])

    def object(self, entry: Entry) -> bytes:
        """See Form."""
        if self._wanted.transform == PARTIAL_LIST:
            return super().object(entry)  # refused
        return self._bytes(entry.tail) + b"\n"

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """See Form."""
        return frame(b'{"type":"%b","object":%b}\n' % (kind.encode(), self._bytes(tail_of(event, kind))))

    def initial(self, entry: Entry) -> bytes:
        """See Form."""
        return frame(b'{"type":"ADDED","object":%b}\n' % self._bytes(entry.tail))


def _end_of_metadata(schema: TypeSchema | None) -> re.Pattern[bytes] | None:
    """Finds the end of metadata in a tail; None for kinds whose fields are not known, or are called like metadata's."""
    if schema is None or schema.custom or schema.unknown is not None:
        return None
    names = [name for name in schema.fields if name != "metadata"]
    if not names or not _METADATA_NAMES.isdisjoint(names):
        return None
    return re.compile(rb'\},"(?:%b)":' % "|".join(map(re.escape, names)).encode())


_METADATA_NAMES: Final = frozenset({*METADATA_ORDER, "subresource", "fieldsV1", "fieldsType", "time", "operation"})


def partial_metadata(obj: Object, meta_version: str) -> Object:
    """PartialObjectMetadata of an object. What upstream only makes up for whole objects is not in it."""
    metadata = obj.get("metadata", {})
    made_up = MADE_UP_ANNOTATIONS.get(obj.get("kind", ""))
    if made_up and made_up in (metadata.get("annotations") or {}):
        kept = {key: value for key, value in metadata["annotations"].items() if key != made_up}
        metadata = {**metadata, "annotations": kept}
        if not kept:
            del metadata["annotations"]
    return {"kind": PARTIAL, "apiVersion": f"meta.k8s.io/{meta_version}", "metadata": metadata}


class TableForm:
    """Columns and rows. As a watch form it belongs to one watcher: only its first event carries the columns."""

    def __init__(
        self, served: ServedResource, wanted: Wanted, include_object: str, now: Callable[[], datetime]
    ) -> None:
        self._served = served
        self._wanted = wanted
        self._include = include_object or "Metadata"
        self._now = now
        self._columns_sent = False
        # Kinds that have no columns of their own say null where the others have an empty list.
        self._no_rows: list[Object] | None = None if CREATED_AT_COLUMN in served.strategy.columns else []
        self.content_type = wanted.media_type
        self.stream_type = wanted.media_type

    @property
    def key(self) -> object:
        """Never shared."""
        return id(self)

    def _row(self, tail: bytes, now: datetime) -> Object:
        stored = self._served.store.parse(tail)
        cells = list(self._served.strategy.row(stored, now))
        obj: Object | None = None
        if self._include == "Object":
            obj = self._served.from_storage(stored)
        elif self._include != "None":
            obj = partial_metadata(stored, self._wanted.meta_version)
        return {"cells": cells, "object": obj}

    def table(self, tails: Iterable[bytes], metadata: Object, *, columns: bool = True) -> Object:
        """The Table of some objects."""
        now = self._now()
        rows = [self._row(tail, now) for tail in tails]
        return {
            "kind": TABLE,
            "apiVersion": f"meta.k8s.io/{self._wanted.meta_version}",
            "metadata": metadata,
            "columnDefinitions": column_definitions(self._served.strategy.columns) if columns else None,
            "rows": rows or self._no_rows,
        }

    def _encode(self, value: Object) -> bytes:
        return encode_value(value, self._wanted.media_type, pretty=self._wanted.pretty)

    def object(self, entry: Entry) -> bytes:
        """See Form."""
        # What is only tried has no revision.
        metadata = {"resourceVersion": str(entry.revision)} if entry.revision else {}
        return self._encode(self.table([entry.tail], metadata))

    def list(self, entries: Sequence[Entry], metadata: Object) -> list[bytes]:
        """See Form."""
        return [self._encode(self.table([entry.tail for entry in entries], metadata))]

    def _event(self, kind: str, tail: bytes, revision: int) -> bytes:
        table = self.table([tail], {"resourceVersion": str(revision)}, columns=not self._columns_sent)
        self._columns_sent = True
        return frame(encode_event(kind, table, self._wanted.media_type))

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """See Form."""
        return self._event(kind, tail_of(event, kind), event.revision)

    def initial(self, entry: Entry) -> bytes:
        """See Form."""
        return self._event("ADDED", entry.tail, entry.revision)

    def bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        """See Form. The bookmark's annotations travel on the object of its only row."""
        value = bookmark_object(self._served, revision, initial_end=initial_end)
        cells = list(self._served.strategy.row(value, self._now()))
        if self._include != "Object":
            value = partial_metadata(value, self._wanted.meta_version)
        table = {
            "kind": TABLE,
            "apiVersion": f"meta.k8s.io/{self._wanted.meta_version}",
            "metadata": {"resourceVersion": str(revision)},
            "columnDefinitions": column_definitions(self._served.strategy.columns) if not self._columns_sent else None,
            "rows": [{"cells": cells, "object": value}],
        }
        self._columns_sent = True
        return frame(encode_event("BOOKMARK", table, self._wanted.media_type))

    def error(self, status: Object) -> bytes:
        """See Form."""
        return frame(encode_event("ERROR", status, self._wanted.media_type))


def column_definitions(columns: Sequence[Column]) -> list[Object]:
    """TableColumnDefinitions in wire order."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in columns
    ]
