"""The audit policy: how much is recorded of which request. The first rule that matches decides; without one, nothing.

https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/, https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.configfile import (
    NOT_A_SUBDOMAIN,
    SUBDOMAIN,
    ConfigError,
    check_kind,
    document,
    joined,
    read,
    strict_error,
    unknown_fields,
)
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.base.log import get_logger
from tiphys.machinery import field
from tiphys.machinery.field import FieldError
from tiphys.machinery.field import Path as FieldPath

log = get_logger(__name__)

RECEIVED: Final = "RequestReceived"
STARTED: Final = "ResponseStarted"
COMPLETE: Final = "ResponseComplete"
PANIC: Final = "Panic"
STAGES: Final = (RECEIVED, STARTED, COMPLETE, PANIC)
SCHEME: Final = "k8s.io/apiserver/pkg/audit/scheme.go:30"
_RULE: Final = {
    **dict.fromkeys(("level", "users", "userGroups", "verbs", "namespaces", "nonResourceURLs")),
    **dict.fromkeys(("omitStages", "omitManagedFields")),
    "resources": [dict.fromkeys(("group", "resources", "resourceNames"))],
}
SHAPE: Final = {
    **dict.fromkeys(("apiVersion", "kind", "metadata", "omitStages", "omitManagedFields")),
    "rules": [_RULE],
}


class Level(IntEnum):
    """How much is recorded; each includes those below."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def text(self) -> str:
        """As the API writes it."""
        return NAMES[self]


NAMES: Final = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}
LEVELS: Final = {name: level for level, name in NAMES.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recorded of a request."""

    level: Level
    omitted: frozenset[str] = frozenset()  # stages
    omit_managed_fields: bool = False


NOTHING: Final = Choice(Level.NONE)


@dataclass(frozen=True, slots=True)
class GroupResources:
    """Resources of one group, as a rule lists them; no names are all."""

    group: str
    resources: tuple[str, ...]
    names: frozenset[str]

    def matches(self, info: RequestInfo) -> bool:
        """Whether the request is for one of them."""
        if self.group != info.api_group:
            return False
        if not self.resources:
            return True
        if self.names and info.name not in self.names:
            return False
        wanted = {"*", info.resource}
        if info.subresource:
            whole = f"{info.resource}/{info.subresource}"
            wanted = {"*", whole, f"*/{info.subresource}", f"{info.resource}/*"}
        return any(one in wanted for one in self.resources)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; an empty set is no condition."""

    choice: Choice
    users: frozenset[str]
    groups: frozenset[str]
    verbs: frozenset[str]
    namespaces: frozenset[str]
    resources: tuple[GroupResources, ...]
    paths: tuple[str, ...]

    def matches(self, user: UserInfo, info: RequestInfo) -> bool:
        """Whether the rule is about this request of this user."""
        if self.users and user.name not in self.users:
            return False
        if self.groups and self.groups.isdisjoint(user.groups):
            return False
        if self.verbs and info.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            return info.is_resource and self._matches_resource(info)
        if self.paths:
            return not info.is_resource and any(_matches_path(path, info.path) for path in self.paths)
        return True

    def _matches_resource(self, info: RequestInfo) -> bool:
        if self.namespaces and info.namespace not in self.namespaces:
            return False
        return not self.resources or any(one.matches(info) for one in self.resources)


def _matches_path(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in order."""

    rules: tuple[Rule, ...]

    def choose(self, user: UserInfo, info: RequestInfo) -> Choice:
        """What is recorded of this request of this user."""
        for rule in self.rules:
            if rule.matches(user, info):
                return rule.choice
        return NOTHING


def load_policy(path: Path) -> Policy:
    """The policy of a file. Raises ConfigError, worded as upstream's; unknown fields are only warned of."""
    try:
        data = read(path)
    except ConfigError as error:
        raise ConfigError(f'loading audit policy file: failed to read file path "{path}": {error}') from None
    try:
        found = document(data)
        check_kind(found, "Policy", ("audit.k8s.io/v1",), SCHEME)
    except ConfigError as error:
        raise ConfigError(f"loading audit policy file: failed decoding: {error}: from file {path}") from None
    lenient = strict_error(unknown_fields(found, SHAPE))
    if lenient:
        log.warning("Audit policy contains errors, falling back to lenient decoding: %s", lenient)
    rules = found.get("rules") or []
    if not rules:
        raise ConfigError(f"loading audit policy file: loaded illegal policy with 0 rules: from file {path}")
    errors = [*_stage_errors(found, FieldPath("omitStages")), *_errors(rules)]
    if errors:
        raise ConfigError(f"loading audit policy file: {joined(errors)}: from file {path}")
    log.info("Loaded audit policy with %d rules from file %s", len(rules), path)
    return policy_of(found)


def policy_of(found: Mapping[str, Any]) -> Policy:
    """The policy a valid document describes."""
    omitted = frozenset(found.get("omitStages") or ())
    managed = bool(found.get("omitManagedFields"))
    return Policy(tuple(_rule(rule, omitted, managed) for rule in found.get("rules") or ()))


def _rule(rule: Mapping[str, Any], omitted: frozenset[str], managed: bool) -> Rule:
    def strings(key: str) -> frozenset[str]:
        return frozenset(rule.get(key) or ())

    own = rule.get("omitManagedFields")
    choice = Choice(LEVELS[rule["level"]], omitted | strings("omitStages"), managed if own is None else bool(own))
    resources = tuple(
        GroupResources(
            one.get("group") or "", tuple(one.get("resources") or ()), frozenset(one.get("resourceNames") or ())
        )
        for one in rule.get("resources") or ()
    )
    paths = tuple(rule.get("nonResourceURLs") or ())
    names = (strings(key) for key in ("users", "userGroups", "verbs", "namespaces"))
    users, groups, verbs, namespaces = names
    return Rule(choice, users, groups, verbs, namespaces, resources, paths)


def _errors(rules: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, rule in enumerate(rules):
        path = FieldPath("rules").index(index)
        level = rule.get("level") or ""
        if not level:
            errors.append(field.required(path.child("level")))
        elif level not in LEVELS:
            errors.append(field.not_supported(path.child("level"), level, list(LEVELS)))
        errors += _path_errors(rule.get("nonResourceURLs") or (), path.child("nonResourceURLs"))
        errors += _resource_errors(rule.get("resources") or (), path.child("resources"))
        errors += _stage_errors(rule, path.child("omitStages"))
        if rule.get("nonResourceURLs") and (rule.get("resources") or rule.get("namespaces")):
            message = "rules cannot apply to both regular resources and non-resource URLs"
            errors.append(field.invalid(path.child("nonResourceURLs"), rule["nonResourceURLs"], message))
    return errors


def _path_errors(paths: Sequence[str], at: FieldPath) -> list[FieldError]:
    errors = []
    for index, path in enumerate(paths):
        if path == "*":
            continue
        where = at.index(index)
        if not path.startswith("/"):
            message = "non-resource URL rules must begin with a '/' character"
            errors.append(field.invalid(where, path, message))
        if "*" in path[:-1]:
            message = "non-resource URL wildcards '*' must be the final character of the rule"
            errors.append(field.invalid(where, path, message))
    return errors


def _resource_errors(resources: Sequence[Mapping[str, Any]], at: FieldPath) -> list[FieldError]:
    errors = []
    for one in resources:
        group = one.get("group") or ""
        if group and not SUBDOMAIN.fullmatch(group):
            errors.append(field.invalid(at.child("group"), group, NOT_A_SUBDOMAIN))
        if one.get("resourceNames") and not one.get("resources"):
            message = "using resourceNames requires at least one resource"
            errors.append(field.invalid(at.child("resourceNames"), one["resourceNames"], message))
    return errors


def _stage_errors(found: Mapping[str, Any], at: FieldPath) -> list[FieldError]:
    stages = found.get("omitStages") or ()
    return [
        field.invalid(at.index(index), stage, f"allowed stages are {','.join(STAGES)}")
        for index, stage in enumerate(stages)
        if stage not in STAGES
    ]
