"""Policy rules: what one line of a role allows, and whether some rules cover others.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/#role-and-clusterrole
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tiphys.apiserver.authz.interface import Attributes

ALL: Final = "*"


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
        """Whether this rule allows the request."""
        return self.covers(attributes) and (not self.resource_names or attributes.name in self.resource_names)

    def covers(self, attributes: Attributes) -> bool:
        """Whether this rule is about the request, whatever the name of the object."""
        if attributes.verb not in self.verbs and ALL not in self.verbs:
            return False
        if not attributes.resource_request:
            return any(url_matches(url, attributes.path) for url in self.non_resource_urls)
        if attributes.api_group not in self.api_groups and ALL not in self.api_groups:
            return False
        return self._covers_resource(attributes.resource, attributes.subresource)

    def _covers_resource(self, resource: str, subresource: str) -> bool:
        combined = f"{resource}/{subresource}" if subresource else resource
        if ALL in self.resources or combined in self.resources:
            return True
        return bool(subresource) and f"*/{subresource}" in self.resources


def url_matches(rule: str, path: str) -> bool:
    """`/healthz` matches itself, `/healthz/*` what begins with it, `*` everything."""
    return rule in (ALL, path) or (rule.endswith("*") and path.startswith(rule.rstrip("*")))


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


def compacted(pieces: Sequence[PolicyRule]) -> list[PolicyRule]:
    """Broken-down rules put together again where they differ in their verbs only, to be shown to people."""
    verbs: dict[PolicyRule, list[str]] = {}
    for piece in pieces:
        verbs.setdefault(replace(piece, verbs=()), []).extend(piece.verbs)
    return [replace(rest, verbs=tuple(dict.fromkeys(found))) for rest, found in verbs.items()]


def described(rule: PolicyRule) -> str:
    """`{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`."""
    parts = (
        ("APIGroups", rule.api_groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.non_resource_urls),
        ("ResourceNames", rule.resource_names),
        ("Verbs", rule.verbs),
    )
    return "{" + ", ".join(f"{name}:{quoted(values)}" for name, values in parts if values) + "}"


def quoted(values: Sequence[str]) -> str:
    """`["a" "b"]`."""
    return "[" + " ".join(f'"{value}"' for value in values) + "]"
