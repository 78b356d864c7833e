"""The names of things: objects, kinds and resources."""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

UID = NewType("UID", str)


class ObjectName(NamedTuple):
    """An object's namespace and name; the namespace of a cluster-scoped object is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """`namespace/name`, or `name` for a cluster-scoped object: the form of work queue keys and log lines."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str) -> ObjectName:
        """The inverse of `str`. Raises ValueError for more than one slash."""
        parts = text.split("/")
        if len(parts) > 2:
            raise ValueError(f'unexpected key format: "{text}"')
        return cls("", parts[0]) if len(parts) == 1 else cls(parts[0], parts[1])


class GroupResource(NamedTuple):
    """A resource of an API group; the core group is empty."""

    group: str
    resource: str

    def __str__(self) -> str:
        """`resource.group`, as error messages name it."""
        return f"{self.resource}.{self.group}" if self.group else self.resource


class GroupKind(NamedTuple):
    """A kind of an API group; the core group is empty."""

    group: str
    kind: str

    def __str__(self) -> str:
        """`Kind.group`, as error messages name it."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


class GroupVersionResource(NamedTuple):
    """A resource of one version of an API group."""

    group: str
    version: str
    resource: str

    @property
    def group_resource(self) -> GroupResource:
        return GroupResource(self.group, self.resource)

    @property
    def api_version(self) -> str:
        """`group/version`, or `version` for the core group."""
        return join_api_version(self.group, self.version)

    def __str__(self) -> str:
        return f"{self.group}/{self.version}, Resource={self.resource}"


class GroupVersionKind(NamedTuple):
    """A kind of one version of an API group."""

    group: str
    version: str
    kind: str

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)

    @property
    def api_version(self) -> str:
        """`group/version`, or `version` for the core group."""
        return join_api_version(self.group, self.version)

    @classmethod
    def of(cls, api_version: str, kind: str) -> GroupVersionKind:
        """From an object's apiVersion and kind."""
        return cls(*split_api_version(api_version), kind)

    def __str__(self) -> str:
        return f"{self.group}/{self.version}, Kind={self.kind}"


def split_api_version(api_version: str) -> tuple[str, str]:
    """(group, version) of an apiVersion: `apps/v1` → (`apps`, `v1`), `v1` → (``, `v1`)."""
    group, _, version = api_version.rpartition("/")
    return group, version


def join_api_version(group: str, version: str) -> str:
    """The apiVersion of a group and version."""
    return f"{group}/{version}" if group else version


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key of versions, best first: v2, v1, v2beta1, v1beta2, v1alpha1, then anything else by name."""
    found = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not found:
        return (3, 0, 0, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[found[2]]
    return (stage, -int(found[1]), -int(found[3] or 0), version)
