"""Attribute-based access control: a file with one policy a line, read when the server starts.

    {"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy",
     "spec": {"user": "kim", "namespace": "*", "resource": "pods", "apiGroup": "*", "readonly": true}}

Lines without a kind are of the first form of the file, whose properties stand at the top and where what is not said is
everything. https://kubernetes.io/docs/reference/access-authn-authz/abac/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from tiphys.apiserver.authn.interface import GROUP_ALL_AUTHENTICATED, UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.authz.resolve import Resolved
from tiphys.apiserver.authz.rules import ALL, PolicyRule
from tiphys.apiserver.configfile import ConfigError, read
from tiphys.base.log import get_logger
from tiphys.machinery.field import quote

log = get_logger(__name__)
VERSION: Final = "abac.authorization.kubernetes.io/v1beta1"
FIRST_VERSION: Final = "abac.authorization.kubernetes.io/v0"
SCHEME: Final = "pkg/apis/abac/register.go:33"
READ: Final = ("get", "list", "watch")


@dataclass(frozen=True, slots=True)
class Policy:
    """One line: who, and what. "" is nobody and nothing, "*" every namespace, group of APIs, resource, path."""

    user: str = ""
    group: str = ""
    readonly: bool = False
    api_group: str = ""
    resource: str = ""
    namespace: str = ""
    path: str = ""

    def concerns(self, user: UserInfo) -> bool:
        """Whether it is about a user. Where it names a user and a group, both have to fit."""
        if not self.user and not self.group:
            return False
        return self.user in ("", user.name) and (not self.group or self.group in user.groups)

    def allows(self, attributes: Attributes) -> bool:
        """Whether it allows a request."""
        if not self.concerns(attributes.user) or (self.readonly and attributes.verb not in READ):
            return False
        if not attributes.resource_request:
            return self._covers_path(attributes.path)
        wanted = (
            (self.namespace, attributes.namespace),
            (self.resource, attributes.resource),
            (self.api_group, attributes.api_group),
        )
        return all(have in (ALL, asked) for have, asked in wanted)

    def _covers_path(self, path: str) -> bool:
        return self.path in (ALL, path) or (self.path.endswith("/*") and path.startswith(self.path.rstrip("*")))

    def rules(self, namespace: str) -> list[PolicyRule]:
        """What it allows in a namespace, as rules."""
        verbs = READ if self.readonly else (ALL,)
        found = []
        if self.resource and self.namespace in (ALL, namespace):
            found.append(PolicyRule(verbs, (self.api_group,), (self.resource,)))
        if self.path:
            found.append(PolicyRule(verbs, non_resource_urls=(self.path,)))
        return found


class AbacAuthorizer:
    """Implements `Authorizer` and `Resolver`."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self._policies = tuple(policies)

    @classmethod
    def from_file(cls, path: Path) -> AbacAuthorizer:
        """The policies of a file. Raises ConfigError with the line that cannot be read."""
        policies, unversioned = [], 0
        lines = read(path).decode(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            found = _decoded(path, number, text)
            unversioned += "kind" not in found
            policies.append(_policy(path, number, text, found))
        if unversioned:
            log.warning("policy file %s has %d lines without a version", path, unversioned)
        return cls(policies)

    def authorize(self, attributes: Attributes) -> Decision:
        if any(policy.allows(attributes) for policy in self._policies):
            return Decision(Verdict.ALLOW)
        return Decision(Verdict.NO_OPINION, "No policy matched.")

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        mine = [policy for policy in self._policies if policy.concerns(user)]
        return Resolved(tuple(rule for policy in mine for rule in policy.rules(namespace)))


def _decoded(path: Path, number: int, text: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(text)
    except ValueError as error:
        raise _unreadable(path, number, text, f"couldn't get version/kind; json parse error: {error}") from None
    if not isinstance(found, dict):
        raise _unreadable(path, number, text, "not an object")
    return found


def _policy(path: Path, number: int, text: str, found: Mapping[str, Any]) -> Policy:
    kind, version = str(found.get("kind") or ""), str(found.get("apiVersion") or "")
    if not kind and not version:
        return _first_form(found)
    if kind != "Policy" or version not in (VERSION, FIRST_VERSION):
        problem = f"no kind {quote(kind)} is registered for version {quote(version)} in scheme {quote(SCHEME)}"
        raise _unreadable(path, number, text, problem)
    if version == FIRST_VERSION:
        return _first_form(found)
    spec = found.get("spec") or {}
    user, group = _who(spec)
    return Policy(
        user=user,
        group=group,
        readonly=bool(spec.get("readonly")),
        api_group=str(spec.get("apiGroup") or ""),
        resource=str(spec.get("resource") or ""),
        namespace=str(spec.get("namespace") or ""),
        path=str(spec.get("nonResourcePath") or ""),
    )


def _who(found: Mapping[str, Any]) -> tuple[str, str]:
    """User and group. "*" is everybody who has proven who they are: anonymous requests came later than this file."""
    user, group = str(found.get("user") or ""), str(found.get("group") or "")
    return ("", GROUP_ALL_AUTHENTICATED) if ALL in (user, group) else (user, group)


def _first_form(found: Mapping[str, Any]) -> Policy:
    user, group = _who(found)
    namespace, resource = str(found.get("namespace") or ""), str(found.get("resource") or "")
    if not (user or group):
        group = GROUP_ALL_AUTHENTICATED
    return Policy(
        user=user,
        group=group,
        readonly=bool(found.get("readonly")),
        api_group=ALL,
        resource=resource or ALL,
        namespace=namespace or ALL,
        path="" if namespace or resource else ALL,
    )


def _unreadable(path: Path, number: int, text: str, problem: str) -> ConfigError:
    return ConfigError(f"error reading policy file {path}, line {number}: {text}: {problem}")
