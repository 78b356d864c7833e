"""One version of a custom resource over the objects in their stored version, and how its answers look.

    stored bytes (storage version) ─ parse ─▶ version asked for: apiVersion set, pruned, defaulted ─▶ handlers
                                    ◀─ _bytes_of ─ storage version

As upstream, everything between the request and the store happens in the version of the request: validation, ownership,
admission. Versions differ in their schemas only (conversion strategy None; `converted` is for webhooks).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson

from tiphys.api.table import Resource
from tiphys.apiserver.crd.strategy import CustomStrategy
from tiphys.apiserver.endpoints.forms import PlainForm, tail_of
from tiphys.apiserver.http.response import frame
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.store import ResourceStore
from tiphys.apiserver.registry.strategy import Object
from tiphys.apiserver.watchcache import CacheEvent, Entry, Kind, WatchCache, encode_stored
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import TypeSchema


class CustomStore(ResourceStore):
    """See the module. `exact`: what is stored needs no look to be shown in this version."""

    strategy: CustomStrategy

    def __init__(
        self,
        strategy: CustomStrategy,
        kind: Kind,
        cache: WatchCache,
        now: Callable[[], datetime],
        schema: TypeSchema,
        storage: Resource,
        *,
        exact: bool,
    ) -> None:
        super().__init__(strategy, kind, cache, now, schema)
        self.storage = storage
        self.exact = exact
        # The stores of all served versions of the definition, by apiVersion.
        self.versions: dict[str, CustomStore] = {}

    def parse(self, tail: bytes) -> Object:
        """A fresh object of this version from the tail of an entry."""
        obj: Object = orjson.loads(self.prefix + tail)
        return obj if self.exact else self.strategy.shaped(obj)

    def in_version(self, obj: Object, api_version: str) -> tuple[Object, TypeSchema] | None:
        """See ResourceStore."""
        other = self.versions.get(api_version)
        if other is None or other.schema is None:
            return None
        shown = other.strategy.shaped(copy.deepcopy(obj))
        shown["apiVersion"] = api_version
        return shown, other.schema

    def _bytes_of(self, obj: Object) -> bytes:
        if self.schema is not None:
            obj = normalize(obj, self.schema)
        return encode_stored(obj, self.storage.kind, self.storage.api_version)


class CustomForm(PlainForm):
    """JSON of custom objects: items of a list say what they are, and `continue` is always there."""

    def __init__(self, served: ServedResource, list_kind: str) -> None:
        super().__init__(served)
        self._store: Any = served.store
        self._head = b'{"kind":"%b","apiVersion":"%b","metadata":' % (
            list_kind.encode(),
            served.resource.api_version.encode(),
        )

    def _whole(self, tail: bytes) -> bytes:
        if self._store.exact:
            return self._prefix + tail
        return orjson.dumps(self._store.parse(tail))

    def object(self, entry: Entry) -> bytes:
        """See Form."""
        return self._whole(entry.tail) + b"\n"

    def list(self, entries: Sequence[Entry], metadata: Object) -> list[bytes]:
        """See Form."""
        pieces = [self._head, orjson.dumps({"continue": "", **metadata}), b',"items":[']
        for index, entry in enumerate(entries):
            if index:
                pieces.append(b",")
            pieces.append(self._whole(entry.tail))
        pieces.append(b"]}\n")
        return pieces

    def frame(self, event: CacheEvent, kind: str) -> bytes:
        """See Form."""
        return frame(b'{"type":"%b","object":%b}\n' % (kind.encode(), self._whole(tail_of(event, kind))))

    def initial(self, entry: Entry) -> bytes:
        """See Form."""
        return frame(b'{"type":"ADDED","object":%b}\n' % self._whole(entry.tail))
