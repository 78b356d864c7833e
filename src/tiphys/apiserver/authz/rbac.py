"""Role-based access control: rules in roles, given to subjects by bindings.

The index is built from the watch caches and rebuilt lazily, a kind at a time:

    bindings by subject:   ("User", "", "alice") → [binding, …]        cluster-wide
                           ("Group", "", "system:nodes") → …
                           ("ServiceAccount", "ns", "name") → …
    and the same for each namespace with RoleBindings.

so that a request looks only at bindings of its own user and groups.
https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.service_account import USER_PREFIX
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict

ALL: Final = "*"
Subject = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of a role, as sets of strings."""

    verbs: tuple[str, ...]
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, rule: Mapping[str, Any]) -> PolicyRule:
        def strings(key: str) -> tuple[str, ...]:
            return tuple(rule.get(key) or ())

        return cls(
            strings("verbs"),
            strings("apiGroups"),
            strings("resources"),
            strings("resourceNames"),
            strings("nonResourceURLs"),
        )

    def to_json(self) -> dict[str, Any]:
        """The rule as the API writes it, without empty lists."""
        parts = {
            "verbs": self.verbs,
            "apiGroups": self.api_groups,
            "resources": self.resources,
            "resourceNames": self.resource_names,
            "nonResourceURLs": self.non_resource_urls,
        }
        return {key: list(values) for key, values in parts.items() if values}

    def allows(self, attributes: Attributes) -> bool:
        """Whether this rule covers the request."""
        if attributes.verb not in self.verbs and ALL not in self.verbs:
            return False
        if not attributes.resource_request:
            return any(url_matches(url, attributes.path) for url in self.non_resource_urls)
        if attributes.api_group not in self.api_groups and ALL not in self.api_groups:
            return False
        if not self._covers_resource(attributes.resource, attributes.subresource):
            return False
        return not self.resource_names or attributes.name in self.resource_names

    def _covers_resource(self, resource: str, subresource: str) -> bool:
        combined = f"{resource}/{subresource}" if subresource else resource
        if ALL in self.resources or combined in self.resources:
            return True
        return bool(subresource) and f"*/{subresource}" in self.resources


def url_matches(rule: str, path: str) -> bool:
    """`/healthz` matches itself, `/healthz/*` what begins with it, `*` everything."""
    return rule in (ALL, path) or (rule.endswith("*") and path.startswith(rule.rstrip("*")))


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding, reduced to what a decision needs."""

    kind: str
    namespace: str
    name: str
    role_kind: str
    role_name: str

    def reason(self, subject: Subject) -> str:
        """Why this binding allows, as upstream words it."""
        kind, namespace, name = subject
        who = f"{name}/{namespace}" if kind == "ServiceAccount" else name
        binding = f"{self.name}/{self.namespace}" if self.namespace else self.name
        return f'RBAC: allowed by {self.kind} "{binding}" of {self.role_kind} "{self.role_name}" to {kind} "{who}"'


@dataclass(slots=True)
class _Index:
    """Bindings by namespace ("" for cluster-wide) and subject; rules by role."""

    bindings: dict[str, dict[Subject, list[Binding]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    rules: dict[tuple[str, str], tuple[PolicyRule, ...]] = field(default_factory=dict)


Lister = Callable[[str], Iterable[Mapping[str, Any]]]


KINDS: Final = ("clusterroles", "clusterrolebindings", "roles", "rolebindings")


class RBACAuthorizer:
    """Decides by the roles in the cluster."""

    def __init__(self, lister: Lister, version: Callable[[], object]) -> None:
        """`lister(plural)` yields the current objects of one of the four kinds.

        `version()` is compared at every request: when it differs, the index is built anew.
        """
        self._lister = lister
        self._version = version
        self._index = _Index()
        self._built_at: object = None

    def authorize(self, attributes: Attributes) -> Decision:
        for rules, binding, subject in self._applicable(attributes.user, attributes.namespace):
            if any(rule.allows(attributes) for rule in rules):
                return Decision(Verdict.ALLOW, binding.reason(subject))
        return Decision(Verdict.NO_OPINION)

    def rules_for(self, user: UserInfo, namespace: str) -> list[PolicyRule]:
        """Every rule `user` has in `namespace` ("" for cluster-wide only), in the order of evaluation."""
        found: list[PolicyRule] = []
        for rules, _, _ in self._applicable(user, namespace):
            found.extend(rules)
        return found

    def rules_of_role(self, kind: str, namespace: str, name: str) -> tuple[PolicyRule, ...] | None:
        """The rules of a Role or ClusterRole; None when it does not exist."""
        return self._current().rules.get((kind, name if kind == "ClusterRole" else f"{namespace}/{name}"))

    def _applicable(self, user: UserInfo, namespace: str) -> Iterator[tuple[tuple[PolicyRule, ...], Binding, Subject]]:
        index = self._current()
        subjects = tuple(subjects_of(user))
        for scope in ("", namespace) if namespace else ("",):
            by_subject = index.bindings.get(scope)
            if by_subject is None:
                continue
            for subject in subjects:
                for binding in by_subject.get(subject, ()):
                    key = binding.role_name if binding.role_kind == "ClusterRole" else f"{scope}/{binding.role_name}"
                    rules = index.rules.get((binding.role_kind, key))
                    if rules is not None:
                        yield rules, binding, subject

    def _current(self) -> _Index:
        version = self._version()
        if self._built_at is None or version != self._built_at:
            self._index = self._build()
            self._built_at = version
        return self._index

    def _build(self) -> _Index:
        index = _Index()
        for kind, plural in (("ClusterRole", "clusterroles"), ("Role", "roles")):
            for role in self._lister(plural):
                metadata = role["metadata"]
                key = metadata["name"] if kind == "ClusterRole" else f"{metadata['namespace']}/{metadata['name']}"
                index.rules[(kind, key)] = tuple(PolicyRule.from_json(rule) for rule in role.get("rules") or ())
        for kind, plural in (("ClusterRoleBinding", "clusterrolebindings"), ("RoleBinding", "rolebindings")):
            for found in self._lister(plural):
                metadata, reference = found["metadata"], found["roleRef"]
                namespace = metadata.get("namespace", "") if kind == "RoleBinding" else ""
                binding = Binding(kind, namespace, metadata["name"], reference["kind"], reference["name"])
                for subject in found.get("subjects") or ():
                    index.bindings[namespace][_subject(subject, namespace)].append(binding)
        return index


def _subject(subject: Mapping[str, Any], namespace: str) -> Subject:
    kind = subject["kind"]
    if kind == "ServiceAccount":
        return kind, subject.get("namespace") or namespace, subject["name"]
    return kind, "", subject["name"]


def subjects_of(user: UserInfo) -> Iterator[Subject]:
    """The subjects a user is: itself, its groups, and its service account."""
    yield "User", "", user.name
    for group in user.groups:
        yield "Group", "", group
    if user.name.startswith(USER_PREFIX):
        namespace, _, name = user.name.removeprefix(USER_PREFIX).partition(":")
        yield "ServiceAccount", namespace, name


def uncovered(wanted: Sequence[PolicyRule], owned: Sequence[PolicyRule]) -> list[PolicyRule]:
    """The parts of `wanted` not covered by `owned`, each broken down to one verb, group and resource.

    Used against escalation: nobody gives away more than they have.
    """
    pieces = (piece for rule in wanted for piece in _atoms(rule))
    return [piece for piece in pieces if not any(_covers(owner, piece) for owner in owned)]


def _atoms(rule: PolicyRule) -> Iterator[PolicyRule]:
    for verb in rule.verbs:
        for url in rule.non_resource_urls:
            yield PolicyRule((verb,), non_resource_urls=(url,))
        for group in rule.api_groups:
            for resource in rule.resources:
                if not rule.resource_names:
                    yield PolicyRule((verb,), (group,), (resource,))
                for name in rule.resource_names:
                    yield PolicyRule((verb,), (group,), (resource,), (name,))


def _covers(owner: PolicyRule, piece: PolicyRule) -> bool:
    if not _has(owner.verbs, piece.verbs[0]):
        return False
    if piece.non_resource_urls:
        return any(url_matches(url, piece.non_resource_urls[0]) for url in owner.non_resource_urls)
    if not _has(owner.api_groups, piece.api_groups[0]):
        return False
    resource = piece.resources[0]
    _, slash, subresource = resource.partition("/")
    if not _has(owner.resources, resource) and not (slash and f"*/{subresource}" in owner.resources):
        return False
    return not owner.resource_names or bool(piece.resource_names and piece.resource_names[0] in owner.resource_names)


def _has(values: Sequence[str], value: str) -> bool:
    return value in values or ALL in values
