"""Discovery documents, made from the resource map when it changes and kept as bytes.

    /api /apis                 APIVersions, APIGroupList; or one APIGroupDiscoveryList with everything and an ETag
    /api/v1 /apis/GROUP/VERSION    APIResourceList            /apis/GROUP   APIGroup

https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import orjson

from tiphys.api.table import GROUPS, Resource, Subresource
from tiphys.apiserver.registry.resources import ResourceMap
from tiphys.machinery.meta import join_api_version, version_priority

Object = dict[str, Any]
REGISTRATION: Final = "apiregistration.k8s.io"


def storage_version_hash(group: str, version: str, kind: str) -> str:
    """What tells a client that the storage version of a resource changed."""
    digest = hashlib.sha256(f"{group}/{version}/{kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


class Registered(Protocol):
    """What the aggregator knows: the order of groups, and what other servers serve."""

    def order(self) -> Sequence[tuple[str, Sequence[str]]]:
        """Groups (the core one is "") with their versions that are registered, by priority."""

    def remote(self, group: str, version: str) -> Object | None:
        """The aggregated entry of a version another server answers for; None for one of our own."""


class Discovery:
    """The documents of what a resource map serves now."""

    def __init__(self, resources: ResourceMap, storage_hash: Callable[[Resource], str]) -> None:
        """`storage_hash(resource)`: its storageVersionHash, "" for what is not stored."""
        self._resources = resources
        self._storage_hash = storage_hash
        self._cached: dict[str, Any] = {}
        self.registered: Registered | None = None
        resources.on_change(self.changed)

    def changed(self) -> None:
        """Forget everything: it is made again when asked for."""
        self._cached.clear()

    # --- what there is ----------------------------------------------------------------------------
    def _by_version(self) -> dict[tuple[str, str], list[Resource]]:
        found: dict[tuple[str, str], list[Resource]] | None = self._cached.get("by-version")
        if found is None:
            found = {}
            for resource in self._resources.resources():
                found.setdefault((resource.group, resource.version), []).append(resource)
            for listed in found.values():
                listed.sort(key=lambda resource: resource.plural)
            self._cached["by-version"] = found
        return found

    def groups(self) -> list[tuple[str, list[str]]]:
        """Groups but the core one, with their versions, both in order of preference.

        First the group that registers the others, then those that are registered, then what is served besides.
        """
        known: list[tuple[str, list[str]]] | None = self._cached.get("groups")
        if known is None:
            served = self._served_groups()
            known = [one for one in served if one[0] == REGISTRATION]
            left = {name: versions for name, versions in served if name != REGISTRATION}
            for name, versions in self.registered.order() if self.registered is not None else ():
                if name:
                    besides = [one for one in left.pop(name, ()) if one not in versions]
                    known.append((name, [*versions, *besides]))
            known += left.items()
            self._cached["groups"] = known
        return known

    def _served_groups(self) -> list[tuple[str, list[str]]]:
        """Groups of our own but the core one, as upstream's defaults order them."""
        versions: dict[str, list[str]] = {}
        for group, version in self._by_version():
            versions.setdefault(group, []).append(version)
        ordered: list[tuple[str, list[str]]] = []
        for known in GROUPS:
            if known.name and known.name in versions:
                given = versions.pop(known.name)
                ordered.append((known.name, sorted(given, key=lambda version: _position(known.versions, version))))
        ordered += [(group, sorted(versions[group], key=version_priority)) for group in sorted(versions) if group]
        return ordered

    def serves_group(self, group: str) -> bool:
        """Whether this server itself serves any version of the group."""
        return any(name == group for name, _ in self._by_version())

    # --- legacy -----------------------------------------------------------------------------------
    def api_versions(self, server_address: str) -> Object:
        """/api."""
        return {
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
        }

    def group_list(self) -> Object:
        """/apis."""
        groups = [self._group(name, versions) for name, versions in self.groups()]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def group(self, name: str) -> Object | None:
        """/apis/GROUP."""
        for known, versions in self.groups():
            if known == name:
                return {"kind": "APIGroup", "apiVersion": "v1", **self._group(name, versions)}
        return None

    @staticmethod
    def _group(name: str, versions: Sequence[str]) -> Object:
        listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
        return {"name": name, "versions": listed, "preferredVersion": listed[0]}

    def resource_list(self, group: str, version: str) -> Object | None:
        """/apis/GROUP/VERSION and /api/v1."""
        resources = self._by_version().get((group, version))
        if resources is None:
            return None
        listed: list[Object] = []
        for resource in resources:
            listed.append(self._entry(resource))
            listed += [_subresource_entry(resource, name, one) for name, one in _subresources(resource)]
        return (
            {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": join_api_version(group, version),
                "resources": listed,
            }
            if group
            else {
                "kind": "APIResourceList",
                "groupVersion": join_api_version(group, version),
                "resources": listed,
            }
        )

    def _entry(self, resource: Resource) -> Object:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        stored = self._storage_hash(resource)
        if stored:
            entry["storageVersionHash"] = stored
        return entry

    # --- aggregated -------------------------------------------------------------------------------
    def aggregated(self, *, core: bool) -> tuple[bytes, str]:
        """(document, ETag) of the core group, or of all others."""
        key = f"aggregated-{core}"
        known: tuple[bytes, str] | None = self._cached.get(key)
        if known is None:
            if core:
                versions = [self._aggregated_version("", "v1")]
                items: list[Object] = [{"metadata": {}, "versions": [one for one in versions if one]}]
            else:
                items = []
                for name, listed in self.groups():
                    entries = [self._aggregated_version(name, version) for version in listed]
                    if any(entries):  # a group may be registered that nobody serves
                        items.append({"metadata": {"name": name}, "versions": [one for one in entries if one]})
            document = {
                "kind": "APIGroupDiscoveryList",
                "apiVersion": "apidiscovery.k8s.io/v2",
                "metadata": {},
                "items": items,
            }
            data = orjson.dumps(document) + b"\n"
            known = self._cached[key] = (data, f'"{hashlib.sha512(data).hexdigest().upper()}"')
        return known

    def _aggregated_version(self, group: str, version: str) -> Object | None:
        remote = self.registered.remote(group, version) if self.registered is not None else None
        if remote is not None:
            return remote
        resources = self._by_version().get((group, version))
        if resources is None:
            return None
        listed = [_aggregated_resource(resource) for resource in resources]
        return {"version": version, "resources": listed, "freshness": "Current"}


def _position(order: Sequence[str], version: str) -> int:
    return order.index(version) if version in order else len(order)


_BUILT_IN: Final = frozenset(group.name for group in GROUPS)


def _subresources(resource: Resource) -> Iterable[tuple[str, Subresource]]:
    """By name; those of custom resources in the order of their definition."""
    found = resource.subresources.items()
    return sorted(found) if resource.group in _BUILT_IN else found


def _subresource_entry(resource: Resource, name: str, subresource: Subresource) -> Object:
    entry: Object = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
    }
    if subresource.group or subresource.version:
        entry["group"] = subresource.group
        entry["version"] = subresource.version
    entry["kind"] = subresource.kind
    entry["verbs"] = list(subresource.verbs)
    return entry


def _response_kind(resource: Resource, kind: str, group: str = "", version: str = "") -> Object:
    """Of custom resources also where the kind is from."""
    if not group and resource.group not in _BUILT_IN:
        group, version = resource.group, resource.version
    return {"group": group, "version": version, "kind": kind}


def _aggregated_resource(resource: Resource) -> Object:
    entry: Object = {
        "resource": resource.plural,
        "responseKind": _response_kind(resource, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {
                "subresource": name,
                "responseKind": _response_kind(resource, one.kind, one.group, one.version),
                "verbs": list(one.verbs),
            }
            for name, one in _subresources(resource)
        ]
    return entry
