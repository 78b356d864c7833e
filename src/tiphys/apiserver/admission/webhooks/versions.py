"""`Versions` over the resource map."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from tiphys.api.table import Resource
from tiphys.apiserver.admission.webhooks.interface import Object
from tiphys.apiserver.registry.resources import ResourceMap, ServedResource
from tiphys.machinery.normalize import normalize


class ServedVersions:
    """Versions of what is served."""

    def __init__(self, resources: ResourceMap) -> None:
        self._resources = resources

    def storage(self, group: str, plural: str) -> Resource | None:
        store = self._resources.store(group, plural)
        return None if store is None else store.resource

    def served(self, group: str, plural: str) -> Sequence[Resource]:
        store = self._resources.store(group, plural)
        if store is None:
            return ()
        found = []
        for resource in self._resources.resources():
            other = self._resources.store(resource.group, resource.plural)
            # One place in the store: each version of a custom resource may have a store of its own over it.
            if other is not None and other.kind.cache.prefix == store.kind.cache.prefix:
                found.append(resource)
        return found

    def of_kind(self, group: str, version: str, kind: str) -> Resource | None:
        wanted = (group, version, kind)
        return next((one for one in self._resources.resources() if (one.group, one.version, one.kind) == wanted), None)

    def convert(self, obj: Object, to: Resource) -> Object:
        served = self._served(to)
        fresh = copy.deepcopy(obj)
        if served is None:
            return fresh
        return served.from_storage(_custom_in(served, fresh, to.api_version))

    def restore(self, obj: Object, given: Resource, wanted: str) -> Object:
        served = self._served(given)
        if served is None:
            return obj
        if served.schema is not None:
            kind, version = obj.get("kind"), obj.get("apiVersion")
            obj = normalize(obj, served.schema)
            obj["kind"], obj["apiVersion"] = kind, version
        stored = served.to_storage(obj)
        served.strategy.default(stored)
        return _custom_in(served, stored, wanted)

    def _served(self, resource: Resource) -> ServedResource | None:
        return self._resources.find(resource.group, resource.version, resource.plural)


def _custom_in(served: ServedResource, obj: Object, api_version: str) -> Object:
    """A custom object in another version; plug-ins see those in the version of the request. Others stay as they are."""
    if served.schema is None or not served.schema.custom or obj.get("apiVersion") == api_version:
        return obj
    found = served.store.in_version(obj, api_version)
    return obj if found is None else found[0]
