"""Entry: one version of one object, as bytes.

What the store holds, and what is kept (`tail`), with the revision spliced in behind the uid:

    store   {"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"d","uid":"…","labels":…},"spec":…}
    tail              "metadata":{"name":"a","namespace":"d","uid":"…","resourceVersion":"7","labels":…},"spec":…}
                                                                       └─ rv_at

GET answers `prefix + tail`, an item of a LIST is `{ + tail`, a watch event `{"type":…,"object":` + prefix + tail + `}`.
The prefix `{"kind":…,"apiVersion":…,` belongs to the version that is asked for, so versions that differ in nothing else
share the bytes; `head` is the one the object was stored with. The writer puts name, generateName, namespace, uid first
in metadata, in this order; none of these can contain a quote, so the first `"uid":"` is the object's own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from sys import intern
from types import MappingProxyType
from typing import Any, Final

import orjson

UID_FIELD: Final = b'"uid":"'
METADATA_FIELD: Final = b'"metadata":'
# The uid itself has 36 characters, then a quote and a comma or the closing brace.
UID_LENGTH: Final = 36
METADATA_ORDER: Final = (
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
)


def encode_stored(obj: dict[str, Any], kind: str, api_version: str) -> bytes:
    """The bytes the store keeps for `obj`: kind, apiVersion and metadata first, no resourceVersion.

    `obj` needs metadata.uid; it is not changed.
    """
    given = obj["metadata"]
    metadata = {field: given[field] for field in METADATA_ORDER if field in given}
    ordered = {"kind": kind, "apiVersion": api_version, "metadata": metadata}
    for field, value in obj.items():
        if field not in ordered:
            ordered[field] = value
    return orjson.dumps(ordered)


NO_LABELS: Final[Mapping[str, str]] = MappingProxyType({})
_HEAD: Final = re.compile(rb'\{"kind":"[^"]*","apiVersion":"[^"]*",')
_HEADS: Final[dict[bytes, bytes]] = {}  # one a kind and version
_FIELD_NAMES: Final[dict[tuple[str, ...], tuple[str, ...]]] = {}  # one a kind


def _known_head(key: str, head: bytes) -> bytes:
    """Take in a head that was not seen before. ValueError when it is none that `encode_stored` makes."""
    if not _HEAD.fullmatch(head):
        raise ValueError(f"{key}: not an object of this server")
    return _HEADS.setdefault(head, head)


class Entry:
    """One version of one object. Immutable but for what is parsed lazily."""

    __slots__ = (
        "_fields",
        "_labels",
        "_object",
        "create_revision",
        "head",
        "key",
        "name",
        "namespace",
        "revision",
        "rv_at",
        "tail",
    )

    def __init__(
        self,
        key: str,
        namespace: str,
        name: str,
        value: bytes,
        revision: int,
        create_revision: int,
    ) -> None:
        """`value` is what the store holds. ValueError when it is not an object written by `encode_stored`."""
        self.key = key
        self.namespace = namespace
        self.name = name
        self.revision = revision
        self.create_revision = create_revision
        start = value.find(METADATA_FIELD)
        uid = value.find(UID_FIELD, start)
        if start < 0 or uid < 0:
            raise ValueError(f"{key}: not an object of this server")
        end = uid + len(UID_FIELD) + UID_LENGTH + 1
        head = value[:start]
        self.head = _HEADS.get(head) or _known_head(key, head)
        if revision:
            self.tail = b'%b,"resourceVersion":"%d"%b' % (value[start:end], revision, value[end:])
        else:  # never saved: the answer to a dry run
            self.tail = value[start:]
        self.rv_at = end - start
        self._labels: Mapping[str, str] | None = None
        self._fields: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._object: dict[str, Any] | None = None

    def at_revision(self, revision: int) -> bytes:
        """The tail with another resourceVersion: what a DELETED event carries."""
        end = self.rv_at + len(b',"resourceVersion":""') + len(str(self.revision))
        return b'%b,"resourceVersion":"%d"%b' % (self.tail[: self.rv_at], revision, self.tail[end:])

    def moved(self, revision: int) -> Entry:
        """The same object under another resourceVersion."""
        other = copy.copy(self)
        other.tail, other.revision = self.at_revision(revision), revision
        return other

    def parse(self) -> dict[str, Any]:
        """A fresh copy of the object without kind and apiVersion, free to be changed."""
        obj: dict[str, Any] = orjson.loads(b"{" + self.tail)
        return obj

    def shared(self, prefix: bytes = b"{") -> dict[str, Any]:
        """The object, parsed once and kept: for small kinds read often (RBAC, namespaces). Must not be changed.

        `prefix` is what stands before the tail: the start of the object with its kind and apiVersion.
        """
        if self._object is None:
            self._object = orjson.loads(prefix + self.tail)
        return self._object

    def peek(self) -> dict[str, Any]:
        """The object for a quick look: shared when somebody keeps it parsed, else parsed for the occasion."""
        return self._object if self._object is not None else self.parse()

    def describe(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """The writer knows labels and selectable fields already: keep them so that nobody has to parse."""
        self._labels = {intern(key): intern(value) for key, value in labels.items()} if labels else NO_LABELS
        self.set_fields(fields)

    @property
    def labels(self) -> Mapping[str, str]:
        """metadata.labels."""
        if self._labels is None:
            metadata = self.peek().get("metadata") or {}
            self._labels = metadata.get("labels") or NO_LABELS
        return self._labels

    @property
    def known_fields(self) -> Mapping[str, str] | None:
        """Selectable fields if they are known already; the cache of the kind computes them otherwise."""
        return None if self._fields is None else dict(zip(*self._fields, strict=True))

    def set_fields(self, fields: Mapping[str, str]) -> None:
        """Keep computed selectable fields: thousands of objects share the names, and many of the values."""
        names = tuple(fields)
        self._fields = _FIELD_NAMES.setdefault(names, names), tuple(map(intern, fields.values()))
