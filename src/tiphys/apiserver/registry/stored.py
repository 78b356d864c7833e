"""StoredObjects: the objects of one resource as bytes, and how they are read.

    object ─ normal form ─ encode ─▶ bytes in the store ─▶ Entry in the cache ─ parse ─▶ a fresh object

What is written and read are the same bytes; `registry.store` says when.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from time import perf_counter
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

import orjson

from tiphys.apiserver.housekeeping import SharedLeases
from tiphys.apiserver.registry.strategy import Object, Strategy
from tiphys.apiserver.registry.templates import Known, Templates
from tiphys.apiserver.registry.upstream_keys import upstream_key
from tiphys.apiserver.store_metrics import store_time
from tiphys.apiserver.watchcache import Entry, Kind, WatchCache, encode_stored
from tiphys.machinery.errors import StatusError, internal_error, not_found, request_entity_too_large, timeout
from tiphys.machinery.field import quote
from tiphys.machinery.meta import GroupKind, GroupResource, join_api_version
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import TypeSchema
from tiphys.store import Deleted

T = TypeVar("T")
CREATE, UPDATE, DELETE = range(3)  # of what the store is asked
NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
MAX_OBJECT_BYTES: Final = 1536 * 1024  # what etcd takes in one request; larger objects are refused by every store alike


class StoredObjects:
    """All objects of one resource, in its storage version."""

    def __init__(
        self,
        strategy: Strategy,
        kind: Kind,
        cache: WatchCache,
        now: Callable[[], datetime],
        schema: TypeSchema | None = None,
        leases: SharedLeases | None = None,
    ) -> None:
        """`strategy.resource` and `schema` are of the storage version; `now` is the clock.

        With `leases`, objects expire: each write puts its object under the current lease.
        """
        resource = strategy.resource
        self.strategy = strategy
        self.kind = kind
        self.resource = resource
        self.schema = schema
        self.group_resource = GroupResource(resource.group, resource.plural)
        self.group_kind = GroupKind(resource.group, resource.kind)
        self.api_version = join_api_version(resource.group, resource.version)
        self.prefix = b'{"kind":"%b","apiVersion":"%b",' % (resource.kind.encode(), self.api_version.encode())
        self._cache = cache
        self._store = cache.store
        self._now = now
        self._leases = leases
        self._templates = Templates()
        # Where the seconds of writes are counted.
        self._times = [store_time(name, resource.group, resource.plural) for name in ("create", "update", "delete")]

    def named_as(self, group_resource: GroupResource, strategy: Strategy) -> Self:
        """The same store under another group's name: errors name the resource as the client does (events).

        `strategy` has the rules of that group; it sees objects in the storage version.
        """
        other = copy.copy(self)
        other.group_resource = group_resource
        other.strategy = strategy
        return other

    async def _timed(self, operation: int, asked: Awaitable[T]) -> T:
        """What the store answers; the time is counted, whatever that is."""
        began = perf_counter()
        try:
            return await asked
        finally:
            self._times[operation].observe(perf_counter() - began)

    async def _erase(self, namespace: str, name: str, entry: Entry) -> Deleted:
        """Remove an object at the version of `entry`. Raises CompareFailed, KeyNotFound."""
        asked = self._store.delete(self.store_key(namespace, name), expect=entry.revision)
        return await self._timed(DELETE, asked)

    # --- reading ----------------------------------------------------------------------------------
    def get(self, namespace: str, name: str) -> Entry:
        """The current version. StatusError (404) when there is none, (500) when it cannot be read."""
        entry = self.kind.cache.get(namespace, name)
        if entry is None:
            self._check_readable(namespace, name)
            raise not_found(self.group_resource, name)
        return entry

    async def find(self, namespace: str, name: str) -> Entry | None:
        """As `get`, for stores whose objects have to be fetched from somewhere first; None when there is none."""
        entry = self.kind.cache.get(namespace, name)
        if entry is None:
            self._check_readable(namespace, name)
        return entry

    async def current(self, namespace: str, name: str) -> Entry:
        """As `find`. StatusError (404) when there is none."""
        entry = await self.find(namespace, name)
        if entry is None:
            raise not_found(self.group_resource, name)
        return entry

    def _check_readable(self, namespace: str, name: str) -> None:
        found = self.kind.cache.unreadable_among(namespace, name)
        if found is not None:
            raise internal_error(found[1])

    def check_all_readable(self, namespace: str, name: str = "") -> None:
        """StatusError (500) when an object that a list is to show ("" any) cannot be read."""
        found = self.kind.cache.unreadable_among(namespace, name)
        if found is not None:
            raise self.cannot_read(*found)

    def cannot_read(self, own: str, why: str) -> StatusError:
        """500: one of the objects of a list or watch cannot be read. `own` is its key behind the resource's."""
        key = upstream_key(self.kind.cache.prefix + own)
        return internal_error(f"unable to transform key {quote(key)}: {why}")

    async def outdated(self, namespace: str, name: str) -> bool:
        """Whether an object has to be written although it stays as it is: it is not sealed as it would be now."""
        outdated = self._cache.outdated
        return outdated is not None and await outdated(self.store_key(namespace, name))

    async def fresh(self) -> None:
        """Return when `kind` shows everything the cache of the server has. StatusError when it cannot."""

    @property
    def revision(self) -> int:
        """The revision of the store whose state `kind` shows."""
        return self._cache.revision

    async def shown(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Entries straight from the store, as they look here."""
        return entries

    async def stored(self, obj: Object) -> Object:
        """An object of this store, complete and valid, as it is to be kept."""
        return obj

    def decode(self, entry: Entry) -> Object:
        """A fresh copy of the object, with kind and apiVersion, free to be changed."""
        return self.parse(entry.tail)

    def parse(self, tail: bytes) -> Object:
        """As `decode`, from the tail of an entry."""
        obj: Object = orjson.loads(self.prefix + tail)
        return obj

    def in_version(self, obj: Object, api_version: str) -> tuple[Object, TypeSchema] | None:
        """A copy of an object of this store in another version, with its schema; None where that is not served.

        For resources that have a store for each version; versions of others are converted by `registry.conversion`.
        """
        return None

    def store_key(self, namespace: str, name: str) -> str:
        """Where the object lives in the store."""
        own = f"{namespace}/{name}" if self.resource.namespaced else name
        return self.kind.cache.prefix + own

    # --- bytes ------------------------------------------------------------------------------------
    def _encode(
        self,
        key: str,
        obj: Object,
        like: Object | None = None,
        template: tuple[Known, bytes] | None = None,
        normal: Mapping[str, bytes] = NOTHING,
    ) -> bytes:
        """The bytes to store; `like` is the version before, in normal form, if there was one.

        `normal`: see RequestContext.
        """
        if template is not None and self.schema is not None:
            value = self._bytes_with(obj, self.schema, *template)
        elif like is None or self.schema is None or self.schema.custom:
            value = self._bytes_of(obj)
        else:
            value = self._bytes_like(obj, self.schema, like, normal)
        if len(value) > MAX_OBJECT_BYTES:
            raise request_entity_too_large(f"limit is {MAX_OBJECT_BYTES}")
        labels = obj["metadata"].get("labels") or {}
        self._cache.describe(key, value, labels, self.strategy.selectable_fields(obj))
        return value

    def _bytes_like(self, obj: Object, schema: TypeSchema, like: Object, normal: Mapping[str, bytes]) -> bytes:
        """As `_bytes_of`, what did not change taken from the version before."""
        ready = {name: data for name, data in normal.items() if name in obj and orjson.dumps(obj[name]) == data}
        if ready:
            obj = {name: value for name, value in obj.items() if name not in ready}
        found = normalize(obj, schema, like, checked=True)
        if ready:
            found |= {name: orjson.Fragment(data) for name, data in ready.items()}
            found = {name: found[name] for name in schema.fields if name in found}
        return encode_stored(found, self.resource.kind, self.api_version)

    def _bytes_with(self, obj: Object, schema: TypeSchema, known: Known, name: bytes) -> bytes:
        """As `_bytes_of`, the part of the template as it was encoded before."""
        part = self.strategy.template_part
        ready = known.bytes_with(name)
        if ready is None:
            normal = normalize(obj, schema)
            known.keep(orjson.dumps(normal[part]), name)
            return encode_stored(normal, self.resource.kind, self.api_version)
        normal = normalize({key: value for key, value in obj.items() if key != part}, schema)
        normal[part] = orjson.Fragment(ready)
        wire = {key: normal[key] for key in schema.fields if key in normal}
        return encode_stored(wire, self.resource.kind, self.api_version)

    async def _saved(self, namespace: str, name: str, revision: int) -> Entry:
        """The version just committed."""
        return committed(self.kind, namespace, name, revision)

    def _unsaved(self, namespace: str, name: str, obj: Object, revision: int = 0) -> Entry:
        """What an answer of a dry run carries: the object, with the version it had before (0: none)."""
        own = f"{namespace}/{name}" if self.resource.namespaced else name
        return Entry(own, namespace, name, self._bytes_of(obj), revision, 0)

    def _bytes_of(self, obj: Object) -> bytes:
        """What the store would hold: the normal form again, as strategies and plug-ins may have added to it."""
        if self.schema is not None:
            obj = normalize(obj, self.schema)
        return encode_stored(obj, self.resource.kind, self.api_version)


def committed(kind: Kind, namespace: str, name: str, revision: int) -> Entry:
    """The version written at `revision`: from the cache, unless somebody has changed it again already."""
    entry = kind.cache.get(namespace, name)
    if entry is not None and entry.revision == revision:
        return entry
    for event in reversed(kind.cache.history):
        if event.revision == revision and event.entry is not None:
            return event.entry
    raise timeout("the write was committed, but has not reached this server's cache yet", 1)


def same_object(new: Object, old: Object) -> bool:
    """Whether an update changes nothing. Times of managedFields do not count, and then stay as they were."""
    if new.keys() - _NEVER_COMPARED != old.keys() - _NEVER_COMPARED:
        return False
    for key, value in new.items():
        if key not in _NEVER_COMPARED and key != "metadata" and value != old[key]:
            return False
    return _comparable(new["metadata"]) == _comparable(old["metadata"])


_NEVER_COMPARED: Final = frozenset({"kind", "apiVersion"})


def _comparable(metadata: Object) -> dict[str, Any]:
    plain = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    managed: Sequence[dict[str, Any]] = plain.get("managedFields") or ()
    if managed:
        plain["managedFields"] = [{key: value for key, value in one.items() if key != "time"} for one in managed]
    else:
        plain.pop("managedFields", None)
    return plain
