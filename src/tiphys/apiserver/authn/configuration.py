"""AuthenticationConfiguration: issuers of tokens and what anonymous clients may ask for, from a file or from flags.

https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/, …/access-authn-authz/authentication/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tiphys.apiserver.authn.oidc.claims import CLAIMS, USER, Mapped, Mappings, Rule
from tiphys.apiserver.authn.oidc.jose import ALGORITHMS
from tiphys.apiserver.configfile import ConfigError, check_kind, document, joined, read, strict_error, unknown_fields
from tiphys.machinery import field
from tiphys.machinery.cel.ast import Ident, Node, Select
from tiphys.machinery.cel.errors import CelSyntaxError
from tiphys.machinery.cel.program import Program, compile_expression
from tiphys.machinery.cel.tree import children
from tiphys.machinery.cel.types import Type
from tiphys.machinery.field import FieldError
from tiphys.machinery.field import Path as FieldPath

Object = Mapping[str, Any]
VERSIONS: Final = ("apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1")
SCHEME: Final = "k8s.io/apiserver/pkg/apis/apiserver/install/install.go"
_ISSUER: Final = dict.fromkeys(
    ("url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "egressSelectorType")
)
_MAPPINGS: Final = {
    "username": dict.fromkeys(("claim", "prefix", "expression")),
    "groups": dict.fromkeys(("claim", "prefix", "expression")),
    "uid": dict.fromkeys(("claim", "expression")),
    "extra": [dict.fromkeys(("key", "valueExpression"))],
}
SHAPE: Final = {
    **dict.fromkeys(("apiVersion", "kind")),
    "jwt": [
        {
            "issuer": _ISSUER,
            "claimMappings": _MAPPINGS,
            "claimValidationRules": [dict.fromkeys(("claim", "requiredValue", "expression", "message"))],
            "userValidationRules": [dict.fromkeys(("expression", "message"))],
        }
    ],
    "anonymous": {"enabled": None, "conditions": [{"path": None}]},
}
NEITHER: Final = "claim or expression is required"
BOTH: Final = "claim and expression can't both be set"
VERIFIED: Final = (
    "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression "
    "or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"
)


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer of tokens."""

    url: str
    discovery_url: str
    ca: bytes
    audiences: tuple[str, ...]
    mappings: Mappings
    algorithms: tuple[str, ...] = ALGORITHMS


@dataclass(frozen=True, slots=True)
class Authentication:
    """What a configuration says. `anonymous` None leaves it to the flag."""

    issuers: tuple[Issuer, ...] = ()
    anonymous: bool | None = None
    anonymous_paths: frozenset[str] = frozenset()

    def with_algorithms(self, algorithms: Sequence[str]) -> Authentication:
        """The same, but tokens may be signed with these algorithms only."""
        issuers = tuple(replace(issuer, algorithms=tuple(algorithms)) for issuer in self.issuers)
        return replace(self, issuers=issuers)


def load_configuration(path: Path, service_account_issuer: str = "") -> Authentication:
    """The configuration of a file. Raises ConfigError, worded as upstream's."""
    try:
        data = read(path)
    except ConfigError as error:
        raise ConfigError(f'failed to load authentication configuration from file "{path}": {error}') from None
    return configuration_from(data, path, service_account_issuer)


def configuration_from(data: bytes, path: Path, service_account_issuer: str = "") -> Authentication:
    """The configuration that is the content of a file. Raises ConfigError, worded as upstream's."""
    try:
        found = document(data)
        check_kind(found, "AuthenticationConfiguration", VERSIONS, SCHEME)
        problem = strict_error(unknown_fields(found, SHAPE))
        if problem:
            raise ConfigError(problem)
    except ConfigError as error:
        raise ConfigError(f'failed to load authentication configuration from file "{path}": {error}') from None
    return authentication_of(found, service_account_issuer)


def authentication_of(found: Object, service_account_issuer: str = "") -> Authentication:
    """The configuration of a document. Raises ConfigError with every problem."""
    reader = _Reader(service_account_issuer)
    issuers = [reader.issuer(one, FieldPath("jwt").index(index)) for index, one in enumerate(found.get("jwt") or ())]
    anonymous = found.get("anonymous")
    paths = frozenset(one.get("path", "") for one in (anonymous or {}).get("conditions") or ())
    if anonymous is not None and not anonymous.get("enabled") and paths:
        shown = [{"Path": one.get("path", "")} for one in anonymous["conditions"]]
        message = "enabled should be set to true when conditions are defined"
        reader.errors.append(field.invalid(FieldPath("anonymous").child("conditions"), shown, message))
    if reader.errors:
        raise ConfigError(f"invalid authentication configuration: {joined(reader.errors)}")
    enabled = None if anonymous is None else bool(anonymous.get("enabled"))
    return Authentication(tuple(issuers), enabled, paths)


class _Reader:
    """Reads issuers, collecting what is wrong."""

    def __init__(self, service_account_issuer: str) -> None:
        self.errors: list[FieldError] = []
        self._service_account_issuer = service_account_issuer
        self._seen: set[str] = set()

    def issuer(self, jwt: Object, path: FieldPath) -> Issuer:
        """One item of `jwt`."""
        issuer, at = jwt.get("issuer") or {}, path.child("issuer")
        url, discovery = issuer.get("url") or "", issuer.get("discoveryURL") or ""
        self.errors += _url_errors(url, at.child("url"))
        if url and url in self._seen:
            self.errors.append(field.duplicate(at.child("url"), url))
        if url and url == self._service_account_issuer:
            message = "URL must not overlap with disallowed issuers: [%s]"
            self.errors.append(field.invalid(at.child("url"), url, message % url))
        self._seen.add(url)
        if discovery:
            self.errors += _url_errors(discovery, at.child("discoveryURL"))
            if discovery.rstrip("/") == url.rstrip("/"):
                message = "discoveryURL must be different from URL"
                self.errors.append(field.invalid(at.child("discoveryURL"), discovery, message))
        audiences = tuple(issuer.get("audiences") or ())
        self._audience_errors(audiences, issuer.get("audienceMatchPolicy") or "", at)
        ca = (issuer.get("certificateAuthority") or "").encode()
        return Issuer(url, discovery, ca, audiences, self._mappings(jwt, path))

    def _audience_errors(self, audiences: Sequence[str], match: str, at: FieldPath) -> None:
        if not audiences:
            where = at.child("audiences")
            self.errors.append(field.required(where, f"at least one {where} is required"))
        for index, audience in enumerate(audiences):
            if not audience:
                self.errors.append(field.required(at.child("audiences").index(index)))
            elif audience in audiences[:index]:
                self.errors.append(field.duplicate(at.child("audiences").index(index), audience))
        where = at.child("audienceMatchPolicy")
        if len(audiences) > 1 and match != "MatchAny":
            message = "audienceMatchPolicy must be MatchAny for multiple audiences"
            self.errors.append(field.invalid(where, match, message))
        elif len(audiences) == 1 and match not in ("", "MatchAny"):
            message = "audienceMatchPolicy must be empty or MatchAny for single audience"
            self.errors.append(field.invalid(where, match, message))

    def _mappings(self, jwt: Object, path: FieldPath) -> Mappings:
        mappings, at = jwt.get("claimMappings") or {}, path.child("claimMappings")
        rules = [
            self._claim_rule(rule, path.child("claimValidationRules").index(index))
            for index, rule in enumerate(jwt.get("claimValidationRules") or ())
        ]
        username = self._mapped(mappings.get("username") or {}, at.child("username"), required=True)
        groups = self._mapped(mappings.get("groups") or {}, at.child("groups"))
        uid = self._mapped(mappings.get("uid") or {}, at.child("uid"), prefixed=False)
        extra = self._extra(mappings.get("extra") or (), at.child("extra"))
        if username.program is not None:
            programs = [username.program, *(one.program for _, one in extra), *(rule.program for rule in rules)]
            verified = any(_mentions(one.node, "email_verified") for one in programs if one is not None)
            if _mentions(username.program.node, "email") and not verified:
                where = at.child("username").child("expression")
                self.errors.append(field.invalid(where, username.program.source, VERIFIED))
        users = [
            self._user_rule(rule, path.child("userValidationRules").index(index))
            for index, rule in enumerate(jwt.get("userValidationRules") or ())
        ]
        return Mappings(username=username, groups=groups, uid=uid, extra=extra, claim_rules=rules, user_rules=users)

    def _mapped(self, found: Object, at: FieldPath, *, required: bool = False, prefixed: bool = True) -> Mapped:
        claim, expression = found.get("claim") or "", found.get("expression") or ""
        if claim and expression:
            self.errors.append(field.invalid(at, "", BOTH))
        elif required and not claim and not expression:
            self.errors.append(field.required(at, NEITHER))
        if prefixed and expression and found.get("prefix"):
            message = "may not be specified when expression is set"
            self.errors.append(field.invalid(at.child("prefix"), found["prefix"], message))
        if prefixed and claim and found.get("prefix") is None:
            message = "prefix is required when claim is set. It can be set to an empty string to disable prefixing"
            self.errors.append(field.required(at.child("prefix"), message))
        program = None
        if expression and not claim:
            texts = ("string", "dyn") if required or not prefixed else ("string", "list", "dyn")
            shown = "string" if required or not prefixed else "string or list of strings"
            program = self._compiled(expression, CLAIMS, at.child("expression"), texts, f"must evaluate to {shown}")
        return Mapped(claim, found.get("prefix") or "", program)

    def _extra(self, found: Sequence[Object], at: FieldPath) -> list[tuple[str, Mapped]]:
        extra: list[tuple[str, Mapped]] = []
        for index, one in enumerate(found):
            key, where = one.get("key") or "", at.index(index)
            self._key_errors(key, [known for known, _ in extra], where.child("key"))
            source = one.get("valueExpression") or ""
            if not source:
                self.errors.append(field.required(where.child("valueExpression")))
                extra.append((key, Mapped()))
                continue
            kinds = ("string", "list", "dyn")
            message = "must evaluate to a string or a list of strings"
            program = self._compiled(source, CLAIMS, where.child("valueExpression"), kinds, message)
            extra.append((key, Mapped(program=program)))
        return extra

    def _key_errors(self, key: str, seen: Sequence[str], at: FieldPath) -> None:
        if not key:
            self.errors.append(field.required(at))
            return
        domain, slash, rest = key.partition("/")
        if not slash or not domain or not rest:
            message = 'must be a domain-prefixed path (such as "acme.io/foo")'
            self.errors.append(field.invalid(at, key, message))
        if key != key.lower():
            self.errors.append(field.invalid(at, key, "must be lowercase"))
        if key in seen:
            self.errors.append(field.duplicate(at, key))
        if any(domain == one or domain.endswith(f".{one}") for one in ("k8s.io", "kubernetes.io")):
            message = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"
            self.errors.append(field.invalid(at, key, message))

    def _claim_rule(self, rule: Object, at: FieldPath) -> Rule:
        claim, expression = rule.get("claim") or "", rule.get("expression") or ""
        program = None
        if claim and expression:
            self.errors.append(field.invalid(at, claim, BOTH))
        elif not claim and not expression:
            self.errors.append(field.required(at, NEITHER))
        elif claim and rule.get("message"):
            message = "may not be specified when claim is set"
            self.errors.append(field.invalid(at.child("message"), rule["message"], message))
        elif expression:
            if rule.get("requiredValue"):
                message = "may not be specified when expression is set"
                self.errors.append(field.invalid(at.child("requiredValue"), rule["requiredValue"], message))
            program = self._compiled(expression, CLAIMS, at.child("expression"), ("bool",), "must evaluate to bool")
        return Rule(claim, rule.get("requiredValue") or "", program, rule.get("message") or "")

    def _user_rule(self, rule: Object, at: FieldPath) -> Rule:
        source = rule.get("expression") or ""
        if not source:
            self.errors.append(field.required(at.child("expression")))
            return Rule()
        program = self._compiled(source, USER, at.child("expression"), ("bool",), "must evaluate to bool")
        return Rule(program=program, message=rule.get("message") or "")

    def _compiled(
        self, source: str, variables: Mapping[str, Type], at: FieldPath, kinds: Sequence[str], message: str
    ) -> Program | None:
        try:
            program = compile_expression(source, variables)
        except CelSyntaxError as error:
            self.errors.append(field.invalid(at, source, f"compilation failed: {error}"))
            return None
        if program.type.kind not in kinds:
            self.errors.append(field.invalid(at, source, message))
        return program


def _url_errors(url: str, at: FieldPath) -> Iterator[FieldError]:
    if not url:
        yield field.required(at)
        return
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield field.invalid(at, url, "URL scheme must be https")
    if parts.username is not None:
        yield field.invalid(at, url, "URL must not contain a username or password")
    if parts.query:
        yield field.invalid(at, url, "URL must not contain a query")
    if parts.fragment:
        yield field.invalid(at, url, "URL must not contain a fragment")


def _mentions(node: Node, claim: str) -> bool:
    """Whether `claims.CLAIM` occurs, also as a test of its presence."""
    if isinstance(node, Select) and node.field == claim and isinstance(node.operand, Ident):
        return node.operand.name == "claims"
    return any(_mentions(one, claim) for one in children(node))
