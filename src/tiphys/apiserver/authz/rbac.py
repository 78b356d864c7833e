"""Role-based access control: rules in roles, given to subjects by bindings.

The index is built from the watch caches, and brought up to date when something changed:

    bindings by subject:   ("User", "", "alice") → [binding, …]        cluster-wide
                           ("Group", "", "system:nodes") → …
                           ("ServiceAccount", "ns", "name") → …
    and the same for each namespace with RoleBindings.

so that a request looks only at bindings of its own user and groups. Decisions that do not depend on the name of the
object are remembered until something changes: components ask the same few questions all day.
https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.service_account import USER_PREFIX
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.authz.rules import PolicyRule

Subject = tuple[str, str, str]  # kind, namespace, name
Object = Mapping[str, Any]
Rules = tuple[PolicyRule, ...]
Lister = Callable[[str], Iterable[Object]]
KINDS: Final = ("clusterroles", "clusterrolebindings", "roles", "rolebindings")
REMEMBERED: Final = 8192
_NO_OPINION: Final = Decision(Verdict.NO_OPINION)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding, reduced to what a decision needs."""

    kind: str
    namespace: str
    name: str
    role_kind: str
    role_name: str

    @property
    def role(self) -> tuple[str, str]:
        """Key of the role in the index."""
        return self.role_kind, role_key(self.role_kind, self.namespace, self.role_name)

    def reason(self, subject: Subject) -> str:
        """Why this binding allows, as upstream words it."""
        kind, namespace, name = subject
        who = f"{name}/{namespace}" if kind == "ServiceAccount" else name
        binding = f"{self.name}/{self.namespace}" if self.namespace else self.name
        return f'RBAC: allowed by {self.kind} "{binding}" of {self.role_kind} "{self.role_name}" to {kind} "{who}"'


def role_key(kind: str, namespace: str, name: str) -> str:
    """`name` of a ClusterRole, `namespace/name` of a Role."""
    return name if kind == "ClusterRole" else f"{namespace}/{name}"


@dataclass(slots=True)
class _Index:
    """Bindings by namespace ("" for cluster-wide) and subject; rules by role, with the object they were read from."""

    bindings: dict[str, dict[Subject, list[Binding]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    rules: dict[tuple[str, str], tuple[Object, Rules]] = field(default_factory=dict)


class RBACAuthorizer:
    """Decides by the roles in the cluster."""

    def __init__(self, lister: Lister, version: Callable[[], object]) -> None:
        """`lister(plural)` yields the current objects of one of the four kinds; an unchanged object is the same one.

        `version()` is compared at every request: when it differs, the index is brought up to date.
        """
        self._lister = lister
        self._version = version
        self._index = _Index()
        self._built_at: object = None
        self._remembered: dict[tuple[object, ...], Decision | None] = {}

    def authorize(self, attributes: Attributes) -> Decision:
        index = self._current()
        user = attributes.user
        if attributes.resource_request:
            key: tuple[object, ...] = (
                user.name,
                user.groups,
                attributes.verb,
                attributes.api_group,
                attributes.resource,
                attributes.subresource,
                attributes.namespace,
            )
        else:
            key = (user.name, user.groups, attributes.verb, attributes.path)
        known = self._remembered.get(key, _UNKNOWN)
        if known is not None and known is not _UNKNOWN:
            return known
        decision, depends_on_name = self._decide(index, attributes)
        if known is _UNKNOWN:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            # None: asked before, and the answer depends on the name of the object.
            self._remembered[key] = None if depends_on_name else decision
        return decision

    def _decide(self, index: _Index, attributes: Attributes) -> tuple[Decision, bool]:
        """The decision, and whether a request that differs in the object's name alone may get another one."""
        depends_on_name = False
        for rules, binding, subject in _applicable(index, attributes.user, attributes.namespace):
            for rule in rules:
                if not rule.covers(attributes):
                    continue
                if not rule.resource_names:
                    return Decision(Verdict.ALLOW, binding.reason(subject)), depends_on_name
                depends_on_name = True
                if attributes.name in rule.resource_names:
                    return Decision(Verdict.ALLOW, binding.reason(subject)), True
        return _NO_OPINION, depends_on_name

    def rules_for(self, user: UserInfo, namespace: str) -> list[PolicyRule]:
        """Every rule `user` has in `namespace` ("" for cluster-wide only), in the order of evaluation."""
        found: list[PolicyRule] = []
        for rules, _, _ in _applicable(self._current(), user, namespace):
            found.extend(rules)
        return found

    def rules_of_role(self, kind: str, namespace: str, name: str) -> Rules | None:
        """The rules of a Role or ClusterRole; None when it does not exist."""
        found = self._current().rules.get((kind, role_key(kind, namespace, name)))
        return None if found is None else found[1]

    def _current(self) -> _Index:
        version = self._version()
        if version != self._built_at:
            self._index = self._build(self._index)
            self._remembered.clear()
            self._built_at = version
        return self._index

    def _build(self, before: _Index) -> _Index:
        index = _Index()
        for kind, plural in (("ClusterRole", "clusterroles"), ("Role", "roles")):
            for role in self._lister(plural):
                metadata = role["metadata"]
                key = kind, role_key(kind, metadata.get("namespace", ""), metadata["name"])
                known = before.rules.get(key)
                if known is None or known[0] is not role:
                    known = role, tuple(PolicyRule.from_json(rule) for rule in role.get("rules") or ())
                index.rules[key] = known
        for kind, plural in (("ClusterRoleBinding", "clusterrolebindings"), ("RoleBinding", "rolebindings")):
            for found in self._lister(plural):
                metadata, reference = found["metadata"], found["roleRef"]
                namespace = metadata.get("namespace", "") if kind == "RoleBinding" else ""
                binding = Binding(kind, namespace, metadata["name"], reference["kind"], reference["name"])
                for subject in found.get("subjects") or ():
                    index.bindings[namespace][_subject(subject, namespace)].append(binding)
        return index


_UNKNOWN: Final = Decision(Verdict.DENY, "never asked")


def _applicable(index: _Index, user: UserInfo, namespace: str) -> Iterator[tuple[Rules, Binding, Subject]]:
    subjects = tuple(subjects_of(user))
    for scope in ("", namespace) if namespace else ("",):
        by_subject = index.bindings.get(scope)
        if by_subject is None:
            continue
        for subject in subjects:
            for binding in by_subject.get(subject, ()):
                found = index.rules.get(binding.role)
                if found is not None:
                    yield found[1], binding, subject


def _subject(subject: Object, namespace: str) -> Subject:
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
