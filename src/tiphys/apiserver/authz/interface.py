"""May they: the attributes of a request that authorization judges, and the judgement.

See https://kubernetes.io/docs/reference/access-authn-authz/authorization/.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from tiphys.apiserver.authn.interface import UserInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is asked. For a non-resource request only `user`, `verb` and `path` have meaning."""

    user: UserInfo
    verb: str
    resource_request: bool
    path: str = ""
    api_group: str = ""
    api_version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""


class Verdict(Enum):
    """An authorizer's word; NO_OPINION passes the question to the next authorizer."""

    ALLOW = "allow"
    DENY = "deny"
    NO_OPINION = "no_opinion"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and, for people, its reason."""

    verdict: Verdict
    reason: str = ""

    @property
    def allowed(self) -> bool:
        """True only for an explicit ALLOW."""
        return self.verdict is Verdict.ALLOW


class Authorizer(Protocol):
    """Judges requests. Must not block: it is asked for every request, from memory."""

    def authorize(self, attributes: Attributes) -> Decision:
        """Return the verdict. Raises Undecided when somebody outside has to be asked first, else nothing."""


class Undecided(Exception):
    """The judgement depends on an answer from outside: `ask` for it, then authorize again."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        super().__init__("an authorizer outside has not been asked yet")
        self.ask = ask


async def settled(judge: Callable[[], T]) -> T:
    """What `judge`, which asks an authorizer, returns, after whoever has to be asked was."""
    while True:
        try:
            return judge()
        except Undecided as open_question:
            await open_question.ask()
