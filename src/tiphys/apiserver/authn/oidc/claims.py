"""From claims to a user: mappings and rules, each a claim's name or an expression over `claims` (and `user`).

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.program import Program
from tiphys.machinery.cel.types import DYN, STRING, Type, list_of, map_of

Claims = Mapping[str, Any]
CLAIMS: Final[Mapping[str, Type]] = {"claims": map_of(STRING, DYN)}
USER: Final[Mapping[str, Type]] = {
    "user": Type(
        "object",
        name="kubernetes.UserInfo",
        fields={
            "username": STRING,
            "uid": STRING,
            "groups": list_of(STRING),
            "extra": map_of(STRING, list_of(STRING)),
        },
    )
}


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where a part of the user comes from: a claim with a prefix, or an expression; neither: nowhere."""

    claim: str = ""
    prefix: str = ""
    program: Program | None = None

    def __bool__(self) -> bool:
        return bool(self.claim) or self.program is not None

    def texts(self, claims: Claims, what: str) -> list[str]:
        """The values, of one or of several. Raises InvalidToken for values that are no texts."""
        found = self.value(claims, what)
        if found is None or found == "":
            return []
        values = found if isinstance(found, list) else [found]
        if not all(isinstance(value, str) for value in values):
            raise InvalidToken(
                f"oidc: parse {what} claim {_quoted(self.claim)}: it is neither a string nor a list of strings"
            )
        return [f"{self.prefix}{value}" for value in values if value]

    def value(self, claims: Claims, what: str) -> Any:
        """What the claim or the expression gives, without the prefix."""
        if self.program is None:
            return claims.get(self.claim)
        try:
            return self.program.evaluate({"claims": claims})
        except EvalError as error:
            raise InvalidToken(f"oidc: error evaluating {what} claim expression: {error}") from None


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold of claims, or of the user: a claim's value, or an expression with a message."""

    claim: str = ""
    required: str = ""
    program: Program | None = None
    message: str = ""

    def check(self, claims: Claims) -> None:
        """Raises InvalidToken when it does not hold of the claims."""
        if self.program is not None:
            self._evaluate({"claims": claims})
            return
        found = claims.get(self.claim)
        if found is None:
            raise InvalidToken(f"oidc: required claim {self.claim} not present in ID token")
        if found != self.required:
            raise InvalidToken(
                f"oidc: required claim {self.claim} value does not match. Got = {found}, want = {self.required}"
            )

    def check_user(self, user: Mapping[str, Any]) -> None:
        """Raises InvalidToken when it does not hold of the user."""
        self._evaluate({"user": user})

    def _evaluate(self, variables: Mapping[str, Any]) -> None:
        assert self.program is not None
        try:
            holds = self.program.evaluate(variables)
        except EvalError as error:
            raise InvalidToken(f"oidc: error evaluating expression '{self.program.source}': {error}") from None
        if holds is not True:
            why = f": {self.message}" if self.message else ""
            raise InvalidToken(f"oidc: validation expression '{self.program.source}' failed{why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mappings:
    """How an issuer's claims become users."""

    username: Mapped
    groups: Mapped = field(default_factory=Mapped)
    uid: Mapped = field(default_factory=Mapped)
    extra: Sequence[tuple[str, Mapped]] = ()
    claim_rules: Sequence[Rule] = ()
    user_rules: Sequence[Rule] = ()

    def user(self, claims: Claims) -> UserInfo:
        """The user of valid claims. Raises InvalidToken when a rule refuses them or a part is missing."""
        for rule in self.claim_rules:
            rule.check(claims)
        name = self._username(claims)
        uids = self.uid.texts(claims, "uid") if self.uid else []
        groups = tuple(self.groups.texts(claims, "groups")) if self.groups else ()
        extra = {key: tuple(values) for key, one in self.extra if (values := one.texts(claims, "extra"))}
        user = UserInfo(name, uids[0] if uids else "", groups, extra)
        if self.user_rules:
            shown = {
                "username": user.name,
                "uid": user.uid,
                "groups": list(user.groups),
                "extra": {key: list(values) for key, values in user.extra.items()},
            }
            for rule in self.user_rules:
                rule.check_user(shown)
        return user

    def _username(self, claims: Claims) -> str:
        mapped = self.username
        value = mapped.value(claims, "username")
        if mapped.program is not None:
            if not isinstance(value, str) or not value:
                raise InvalidToken("oidc: error evaluating username claim expression: username must not be empty")
            return value
        if not isinstance(value, str):
            raise InvalidToken(f"oidc: parse username claims {_quoted(mapped.claim)}: claim not present")
        if mapped.claim == "email" and claims.get("email_verified", True) is not True:
            raise InvalidToken("oidc: email not verified")
        return f"{mapped.prefix}{value}"


def _quoted(text: str) -> str:
    return f'"{text}"'
