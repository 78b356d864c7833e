"""What is served where: versions of resources over their stores, changeable while the server runs.

ServedResource apps/v1 deployments ──┐                      one per group, version and plural
ServedResource autoscaling/v1 hpa ───┤ conversion
ServedResource autoscaling/v2 hpa ───┴──▶ ResourceStore     one per group and plural: objects are stored once
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tiphys.api.table import Resource
from tiphys.apiserver.registry.store import ResourceStore
from tiphys.apiserver.registry.strategy import Object, Strategy
from tiphys.apiserver.watchcache import Entry
from tiphys.machinery.meta import GroupKind, GroupResource
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import TypeSchema


class Conversion(Protocol):
    """Between a served version and the storage version of one kind. Both take and return the whole object, and may
    change what they are given. apiVersion and kind are set by the caller."""

    @property
    def field_labels(self) -> Mapping[str, str]:
        """Selectable fields that have another name in this version: its name to the stored one."""

    def to_storage(self, obj: Object) -> Object:
        """From the served version."""

    def from_storage(self, obj: Object) -> Object:
        """To the served version."""


@dataclass(eq=False, slots=True)
class ServedResource:
    """One version of a resource. `store` is None for what is not stored (reviews); `conversion` None: same shape.

    `schema` is the type in this version, None for a resource without one (a custom resource that keeps everything).
    """

    resource: Resource
    store: ResourceStore
    schema: TypeSchema | None
    conversion: Conversion | None = None
    # What everybody who uses this version is told; "" nothing.
    warning: str = ""
    # Kept by the endpoints: the form of nearly every answer (`endpoints.forms.PlainForm`).
    plain_form: Any = None

    @property
    def strategy(self) -> Strategy:
        """The strategy (of the storage version)."""
        return self.store.strategy

    @property
    def group_resource(self) -> GroupResource:
        """As error messages name it."""
        return self.resource.group_resource

    @property
    def group_kind(self) -> GroupKind:
        """As error messages name it."""
        return self.resource.group_kind

    @property
    def prefix(self) -> bytes:
        """What stands before an entry's tail in this version."""
        return b'{"kind":"%b","apiVersion":"%b",' % (self.resource.kind.encode(), self.resource.api_version.encode())

    def decode(self, entry: Entry) -> Object:
        """A fresh copy of an object in this version."""
        return self.from_storage(self.store.decode(entry))

    def from_storage(self, obj: Object) -> Object:
        """Convert a storage-version object, which may be changed by it."""
        if self.conversion is not None:
            obj = self.conversion.from_storage(obj)
            if self.schema is not None:
                obj = normalize(obj, self.schema)
        obj["kind"], obj["apiVersion"] = self.resource.kind, self.resource.api_version
        return obj

    def to_storage(self, obj: Object) -> Object:
        """Convert an object of this version, which may be changed by it."""
        if self.conversion is not None:
            obj = self.conversion.to_storage(obj)
            if self.store.schema is not None:
                obj = normalize(obj, self.store.schema)
        obj["kind"], obj["apiVersion"] = self.store.resource.kind, self.store.api_version
        return obj


class ResourceMap:
    """Everything served, by group, version and plural. Listeners hear of changes (discovery, OpenAPI)."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, str], ServedResource] = {}
        self._stores: dict[tuple[str, str], ResourceStore] = {}
        self._listeners: list[Callable[[], None]] = []
        # Resources that exist in discovery but are not stored: reviews, bindings, component statuses.
        self._virtual: dict[tuple[str, str, str], Resource] = {}

    def find(self, group: str, version: str, plural: str) -> ServedResource | None:
        """The resource served at a path."""
        return self._served.get((group, version, plural))

    def virtual(self, group: str, version: str, plural: str) -> Resource | None:
        """A resource without storage, served at a path."""
        return self._virtual.get((group, version, plural))

    def store(self, group: str, plural: str) -> ResourceStore | None:
        """The store of a resource, whatever the version."""
        return self._stores.get((group, plural))

    def stores(self) -> Mapping[tuple[str, str], ResourceStore]:
        """All stores by (group, plural)."""
        return self._stores

    def resources(self) -> Iterable[Resource]:
        """Every resource served, in the order in which they were added."""
        return (
            *(served.resource for served in self._served.values()),
            *self._virtual.values(),
        )

    def versions(self) -> set[tuple[str, str]]:
        """Every group and version something is served in."""
        return {(resource.group, resource.version) for resource in self.resources()}

    def add(self, served: ServedResource) -> None:
        """Serve a resource, in place of what was there."""
        resource = served.resource
        self._served[resource.group, resource.version, resource.plural] = served
        self._stores[resource.group, resource.plural] = served.store
        self._changed()

    def add_virtual(self, resource: Resource) -> None:
        """List a resource that is not stored."""
        self._virtual[resource.group, resource.version, resource.plural] = resource
        self._changed()

    def remove(self, group: str, version: str, plural: str) -> None:
        """Stop serving a resource."""
        gone = self._served.pop((group, version, plural), None)
        if gone is not None and not any((g, p) == (group, plural) for g, _, p in self._served):
            self._stores.pop((group, plural), None)
        self._changed()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


class CacheReader:
    """`strategy.Reader` over the watch caches of the resource map."""

    def __init__(self, resources: ResourceMap) -> None:
        self._resources = resources

    def get(self, group: str, resource: str, key: tuple[str, str]) -> Object | None:
        """The object in storage version, or None. Shared: not to be changed."""
        store = self._resources.store(group, resource)
        if store is None:
            return None
        entry = store.kind.cache.get(key[0], key[1])
        return None if entry is None else self._object(store, entry)

    def list(self, group: str, resource: str, namespace: str = "") -> list[Object]:
        """All objects, in key order. Shared: not to be changed."""
        store = self._resources.store(group, resource)
        if store is None:
            return []
        cache = store.kind.cache
        if not cache.keys:
            return []  # admission asks for webhooks and policies at each write; mostly there are none
        low, high = cache.span(namespace)
        return [self._object(store, cache.entries[key]) for key in cache.keys[low:high]]

    @staticmethod
    def _object(store: ResourceStore, entry: Entry) -> dict[str, Any]:
        # Large kinds are parsed each time: keeping them parsed would cost several times their bytes.
        if store.resource.plural in _NOT_KEPT:
            return store.decode(entry)
        return entry.shared(store.prefix)


_NOT_KEPT = frozenset({"pods", "events", "leases", "endpointslices", "endpoints", "configmaps", "secrets"})
