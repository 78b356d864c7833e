"""The table of resources: what the server serves, in the order in which discovery lists it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tiphys.api.base import Struct
from tiphys.machinery.meta import GroupKind, GroupResource, GroupVersionKind, join_api_version


class Subresource(NamedTuple):
    """A subresource: the kind it takes and returns, its group and version ("" = the resource's own), its verbs."""

    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of one version. `alpha` ones are served only when asked for."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    verbs: tuple[str, ...]
    subresources: Mapping[str, Subresource] = field(default_factory=dict, hash=False)
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    preferred: bool = True
    alpha: bool = False

    @property
    def api_version(self) -> str:
        return join_api_version(self.group, self.version)

    @property
    def group_resource(self) -> GroupResource:
        return GroupResource(self.group, self.plural)

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)

    @property
    def gvk(self) -> GroupVersionKind:
        return GroupVersionKind(self.group, self.version, self.kind)

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, an object or a subresource."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Group:
    """An API group: its preferred version and its versions, preferred first."""

    name: str
    preferred: str
    versions: tuple[str, ...]


def _subresource(facts: Any) -> Subresource:
    kind, verbs = facts
    version, _, short = kind.rpartition(".")
    # `policy/v1.Eviction`: a kind of another group.
    if "/" in version:
        group, _, version = version.partition("/")
        return Subresource(short, tuple(verbs), group, version)
    return Subresource(kind, tuple(verbs))


def _load() -> tuple[tuple[Resource, ...], tuple[Group, ...]]:
    data = orjson.loads((Path(__file__).parent / "data" / "resources.json").read_bytes())
    resources = tuple(
        Resource(
            **{
                **row,
                "verbs": tuple(row["verbs"]),
                "short_names": tuple(row["short_names"]),
                "categories": tuple(row["categories"]),
                "subresources": {name: _subresource(facts) for name, facts in row["subresources"].items()},
            }
        )
        for row in data["resources"]
    )
    return resources, tuple(Group(name, preferred, tuple(versions)) for name, preferred, versions in data["groups"])


ALL_RESOURCES, GROUPS = _load()
# What is served by default.
RESOURCES: tuple[Resource, ...] = tuple(r for r in ALL_RESOURCES if not r.alpha)

_BY_PATH = {(r.group, r.version, r.plural): r for r in ALL_RESOURCES}
_BY_KIND = {(r.group, r.version, r.kind): r for r in ALL_RESOURCES}
_BY_API_VERSION = {(r.api_version, r.kind): r for r in ALL_RESOURCES}


def resource_by_path(group: str, version: str, plural: str) -> Resource | None:
    """The resource served at a path; None when there is none."""
    return _BY_PATH.get((group, version, plural))


def resource_by_kind(group: str, version: str, kind: str) -> Resource | None:
    """The resource of a kind; None when there is none."""
    return _BY_KIND.get((group, version, kind))


def resource_of(cls: type[Any]) -> Resource:
    """The resource whose objects are of this generated type. Raises KeyError for a type that is no resource."""
    return _BY_API_VERSION[cls.API_VERSION, cls.KIND]


@cache
def type_of_kind(group: str, version: str, kind: str) -> type[Struct]:
    """The generated type of a kind. Raises LookupError when there is none."""
    module = f"tiphys.api.{group.partition('.')[0] or 'core'}.{version}"
    try:
        cls: type[Struct] = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError):
        raise LookupError(f"no type for {GroupVersionKind(group, version, kind)}") from None
    return cls


def type_of(resource: Resource) -> type[Struct]:
    """The generated type of a resource's objects."""
    return type_of_kind(resource.group, resource.version, resource.kind)


def list_type_of(resource: Resource) -> type[Struct]:
    """The generated type of a resource's lists."""
    return type_of_kind(resource.group, resource.version, resource.list_kind)
