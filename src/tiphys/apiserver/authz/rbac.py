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

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.service_account import USER_PREFIX
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.authz.resolve import Resolved
from tiphys.apiserver.authz.rules import PolicyRule

Subject = tuple[str, str, str]  # kind, namespace, name
Object = Mapping[str, Any]
Rules = tuple[PolicyRule, ...]
Lister = Callable[[str], Iterable[Object]]
KINDS: Final = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}
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
    """Rules by role and bindings by namespace ("" for cluster-wide) and subject.

    `roles` and `kept` remember the objects these were read from, by key: what has not changed is not read again.
    """

    roles: dict[tuple[str, str], tuple[Object, Rules]] = field(default_factory=dict)
    kept: dict[tuple[str, str], tuple[Object, Binding, tuple[Subject, ...]]] = field(default_factory=dict)
    bindings: dict[str, dict[Subject, dict[Binding, None]]] = field(default_factory=dict)


class RBACAuthorizer:
    """Decides by the roles in the cluster."""

    def __init__(self, lister: Lister, versions: Callable[[], tuple[object, ...]]) -> None:
        """`lister(plural)` yields the current objects of one of the four kinds; an unchanged object is the same one.

        `versions()`, one a kind in the order of KINDS, is compared at every request: where one differs, the index is
        brought up to date.
        """
        self._lister = lister
        self._versions = versions
        self._index = _Index()
        self._seen: tuple[object, ...] = (None,) * len(KINDS)
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

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        """See `Resolver`."""
        return Resolved(tuple(self.rules_for(user, namespace)))

    def rules_of_role(self, kind: str, namespace: str, name: str) -> Rules | None:
        """The rules of a Role or ClusterRole; None when it does not exist."""
        found = self._current().roles.get((kind, role_key(kind, namespace, name)))
        return None if found is None else found[1]

    def _current(self) -> _Index:
        versions = self._versions()
        if versions != self._seen:
            self._catch_up(versions)
            self._remembered.clear()
        return self._index

    def _catch_up(self, versions: tuple[object, ...]) -> None:
        for (kind, plural), version, seen in zip(KINDS.items(), versions, self._seen, strict=True):
            if version != seen:
                take = self._take_bindings if plural.endswith("bindings") else self._take_roles
                take(kind, plural)
        self._seen = versions

    def _take_roles(self, kind: str, plural: str) -> None:
        roles = self._index.roles
        gone = {key for key in roles if key[0] == kind}
        for role in self._lister(plural):
            metadata = role["metadata"]
            key = kind, role_key(kind, metadata.get("namespace", ""), metadata["name"])
            gone.discard(key)
            known = roles.get(key)
            if known is None or known[0] is not role:
                roles[key] = role, tuple(PolicyRule.from_json(rule) for rule in role.get("rules") or ())
        for key in gone:
            del roles[key]

    def _take_bindings(self, kind: str, plural: str) -> None:
        kept = self._index.kept
        gone = {key for key in kept if key[0] == kind}
        for found in self._lister(plural):
            metadata = found["metadata"]
            key = kind, f"{metadata.get('namespace', '')}/{metadata['name']}"
            gone.discard(key)
            known = kept.get(key)
            if known is not None:
                if known[0] is found:
                    continue
                self._drop(key)
            reference = found["roleRef"]
            namespace = metadata.get("namespace", "") if kind == "RoleBinding" else ""
            binding = Binding(kind, namespace, metadata["name"], reference["kind"], reference["name"])
            subjects = tuple(_subject(subject, namespace) for subject in found.get("subjects") or ())
            kept[key] = found, binding, subjects
            of_namespace = self._index.bindings.setdefault(namespace, {})
            for subject in subjects:
                of_namespace.setdefault(subject, {})[binding] = None
        for key in gone:
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        _, binding, subjects = self._index.kept.pop(key)
        of_namespace = self._index.bindings[binding.namespace]
        for subject in subjects:
            bindings = of_namespace.get(subject)
            if bindings is not None:
                bindings.pop(binding, None)
                if not bindings:
                    del of_namespace[subject]


_UNKNOWN: Final = Decision(Verdict.DENY, "never asked")


def _applicable(index: _Index, user: UserInfo, namespace: str) -> Iterator[tuple[Rules, Binding, Subject]]:
    subjects = tuple(subjects_of(user))
    for scope in ("", namespace) if namespace else ("",):
        by_subject = index.bindings.get(scope)
        if by_subject is None:
            continue
        for subject in subjects:
            for binding in by_subject.get(subject, ()):
                found = index.roles.get(binding.role)
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
