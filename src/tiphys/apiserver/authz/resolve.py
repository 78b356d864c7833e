"""What may they: the rules behind an authorizer's verdicts, as far as it can tell. SelfSubjectRulesReview asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authz.rules import ALL, PolicyRule


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rules in the order they are asked. `incomplete`: there may be more; `problem` says why."""

    rules: tuple[PolicyRule, ...] = ()
    incomplete: bool = False
    problem: str = ""


@runtime_checkable
class Resolver(Protocol):
    """An authorizer that can tell."""

    def resolved(self, user: UserInfo, namespace: str) -> Resolved:
        """What `user` may do in `namespace`."""


EVERYTHING = Resolved((PolicyRule((ALL,), (ALL,), (ALL,)), PolicyRule((ALL,), non_resource_urls=(ALL,))))


def joined(found: Iterable[Resolved]) -> Resolved:
    """What several authorizers allow together."""
    parts = tuple(found)
    problems = list(dict.fromkeys(part.problem for part in parts if part.problem))
    return Resolved(
        tuple(rule for part in parts for rule in part.rules),
        any(part.incomplete for part in parts),
        problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]" if problems else "",
    )
