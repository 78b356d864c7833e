"""May they: the attributes of a request that authorization judges, and the judgement.

See https://kubernetes.io/docs/reference/access-authn-authz/authorization/.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tiphys.apiserver.authn.interface import UserInfo


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
        """Return the verdict; never raises for a well-formed request."""
