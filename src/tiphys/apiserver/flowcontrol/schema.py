"""FlowSchemas: to which flow, and so to which priority level, a request belongs.

The schema with the lowest `matchingPrecedence` that matches decides; among equals the first by name. A schema matches
when one of its rules does: one of the rule's subjects is the user, and one of its resource or non-resource rules is
about the request.
https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#flowschema
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.endpoints.request_info import RequestInfo

Object = Mapping[str, Any]
ALL: Final = "*"
ACCOUNT: Final = "system:serviceaccount:"
BY_USER: Final = "ByUser"
BY_NAMESPACE: Final = "ByNamespace"
# How the mandatory and most other schemas are ranked when they do not say.
DEFAULT_PRECEDENCE: Final = 1000

Subject = Callable[[UserInfo], bool]


def subject_of(subject: Object) -> Subject:
    """The test for one subject of a rule."""
    match subject.get("kind"):
        case "User":
            name = subject["user"]["name"]
            return lambda user: name == ALL or user.name == name
        case "Group":
            group = subject["group"]["name"]
            return lambda user: group == ALL or group in user.groups
        case "ServiceAccount":
            account = subject["serviceAccount"]
            prefix = f"{ACCOUNT}{account['namespace']}:"
            if account["name"] == ALL:
                return lambda user: user.name.startswith(prefix)
            whole = prefix + account["name"]
            return lambda user: user.name == whole
    return lambda user: False


def _is_in(wanted: frozenset[str], value: str) -> bool:
    return ALL in wanted or value in wanted


@dataclass(frozen=True, slots=True)
class ResourceRule:
    """Requests for resources that a schema is about."""

    verbs: frozenset[str]
    groups: frozenset[str]
    resources: frozenset[str]
    namespaces: frozenset[str]
    cluster_scope: bool

    @classmethod
    def from_json(cls, rule: Object) -> ResourceRule:
        def strings(key: str) -> frozenset[str]:
            return frozenset(rule.get(key) or ())

        namespaces, everywhere = strings("namespaces"), bool(rule.get("clusterScope"))
        return cls(strings("verbs"), strings("apiGroups"), strings("resources"), namespaces, everywhere)

    def matches(self, info: RequestInfo) -> bool:
        """Whether the rule is about this request."""
        resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        if info.namespace:
            if not _is_in(self.namespaces, info.namespace):
                return False
        elif not self.cluster_scope:
            return False
        return (
            _is_in(self.verbs, info.verb) and _is_in(self.groups, info.api_group) and _is_in(self.resources, resource)
        )


@dataclass(frozen=True, slots=True)
class PathRule:
    """Requests for other paths that a schema is about."""

    verbs: frozenset[str]
    paths: tuple[str, ...]

    @classmethod
    def from_json(cls, rule: Object) -> PathRule:
        return cls(frozenset(rule.get("verbs") or ()), tuple(rule.get("nonResourceURLs") or ()))

    def matches(self, info: RequestInfo) -> bool:
        """Whether the rule is about this request; a path that ends in "*" stands for all that begin so."""
        if not _is_in(self.verbs, info.verb):
            return False
        path = info.path
        return any(path.startswith(one[:-1]) if one.endswith(ALL) else path == one for one in self.paths)


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose requests, and which of them."""

    subjects: tuple[Subject, ...]
    resources: tuple[ResourceRule, ...]
    paths: tuple[PathRule, ...]

    @classmethod
    def from_json(cls, rule: Object) -> Rule:
        return cls(
            tuple(map(subject_of, rule.get("subjects") or ())),
            tuple(map(ResourceRule.from_json, rule.get("resourceRules") or ())),
            tuple(map(PathRule.from_json, rule.get("nonResourceRules") or ())),
        )

    def matches(self, user: UserInfo, info: RequestInfo) -> bool:
        """Whether the rule is about this request of this user."""
        rules: Sequence[ResourceRule | PathRule] = self.resources if info.is_resource else self.paths
        return any(rule.matches(info) for rule in rules) and any(subject(user) for subject in self.subjects)


@dataclass(frozen=True, slots=True)
class FlowSchema:
    """One schema. `distinguisher` is ByUser, ByNamespace or "": what tells its flows apart."""

    name: str
    uid: str
    level: str
    precedence: int
    distinguisher: str
    rules: tuple[Rule, ...]

    @classmethod
    def from_json(cls, schema: Object) -> FlowSchema:
        """`schema`: an object of kind FlowSchema."""
        metadata, spec = schema["metadata"], schema.get("spec") or {}
        return cls(
            metadata["name"],
            metadata.get("uid", ""),
            (spec.get("priorityLevelConfiguration") or {}).get("name", ""),
            spec.get("matchingPrecedence") or DEFAULT_PRECEDENCE,
            (spec.get("distinguisherMethod") or {}).get("type", ""),
            tuple(map(Rule.from_json, spec.get("rules") or ())),
        )

    def matches(self, user: UserInfo, info: RequestInfo) -> bool:
        """Whether this request of this user belongs to the schema."""
        return any(rule.matches(user, info) for rule in self.rules)

    def flow_of(self, user: UserInfo, info: RequestInfo) -> str:
        """What tells this request's flow from others of the schema."""
        if self.distinguisher == BY_USER:
            return user.name
        return info.namespace if self.distinguisher == BY_NAMESPACE else ""


def in_order(schemas: Iterable[FlowSchema]) -> list[FlowSchema]:
    """The schemas as they are asked."""
    return sorted(schemas, key=lambda schema: (schema.precedence, schema.name))
