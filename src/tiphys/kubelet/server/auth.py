"""Who may ask the kubelet what: both questions are put to the API server.

https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/: a client certificate of the
cluster's CA, or a bearer token by TokenReview; then a SubjectAccessReview on the node's subresource.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from tiphys.api.authentication.v1 import TokenReview, TokenReviewSpec
from tiphys.api.authorization.v1 import ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client
from tiphys.kubelet.config import KubeletConfiguration
from tiphys.kubelet.server.http import Request
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

TOKEN_TTL: Final = 120.0  # seconds
ALLOWED_TTL: Final = 300.0
DENIED_TTL: Final = 30.0
MAX_CACHED: Final = 4096

_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()


ANONYMOUS: Final = User("system:anonymous", ("system:unauthenticated",))


def subresources(path: str) -> tuple[str, ...]:
    """The node subresources that allow a path, the narrowest first (KEP-2862)."""
    first = path.strip("/").split("/", 1)[0]
    match first:
        case "stats":
            return ("stats",)
        case "metrics":
            return ("metrics",)
        case "logs":
            return ("log",)
        case "checkpoint":
            return ("checkpoint",)
        case "pods" | "runningpods":
            return ("pods", "proxy")
        case "healthz":
            return ("healthz", "proxy")
        case "configz":
            return ("configz", "proxy")
    return ("proxy",)


class Delegation:
    """Authentication and authorization of requests to one kubelet."""

    def __init__(self, client: Client, clock: Clock, config: KubeletConfiguration, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._config = config
        self._node_name = node_name
        self._tokens: dict[str, tuple[float, User | None]] = {}
        self._decisions: dict[tuple[str, tuple[str, ...], str, str], tuple[float, bool]] = {}

    async def authenticate(self, request: Request) -> User | None:
        """Who asks; None when nobody can say. Raises StatusError, OSError when the API server cannot be asked."""
        if request.peer_certificate:
            return _certificate_user(request.peer_certificate)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token and self._config.webhook_authentication:
            return await self._review(token.strip())
        return ANONYMOUS if self._config.anonymous_auth and not token else None

    async def allowed(self, user: User, request: Request) -> bool:
        """Whether the user may. Raises StatusError, OSError when the API server cannot be asked."""
        if self._config.authorization_mode == "AlwaysAllow":
            return True
        verb = _VERBS.get(request.method, "get")
        for subresource in subresources(request.path):
            if await self._decide(user, verb, subresource):
                return True
        return False

    def refusal(self, user: User, request: Request) -> str:
        verb = _VERBS.get(request.method, "get")
        tried = " ".join(subresources(request.path))
        return f"Forbidden (user={user.name}, verb={verb}, resource=nodes, subresource(s)=[{tried}])\n"

    async def _review(self, token: str) -> User | None:
        key = hashlib.sha256(token.encode()).hexdigest()
        now = self._clock.monotonic()
        if key in self._tokens and self._tokens[key][0] > now:
            return self._tokens[key][1]
        review = await self._client.create(TokenReview(spec=TokenReviewSpec(token=token)))
        user = None
        if review.status.authenticated and review.status.user is not None:
            user = User(review.status.user.username, tuple(review.status.user.groups))
        _trim(self._tokens)
        self._tokens[key] = (now + TOKEN_TTL, user)
        return user

    async def _decide(self, user: User, verb: str, subresource: str) -> bool:
        key = (user.name, user.groups, verb, subresource)
        now = self._clock.monotonic()
        if key in self._decisions and self._decisions[key][0] > now:
            return self._decisions[key][1]
        attributes = ResourceAttributes(
            verb=verb, version="v1", resource="nodes", subresource=subresource, name=self._node_name
        )
        spec = SubjectAccessReviewSpec(user=user.name, groups=user.groups, resource_attributes=attributes)
        try:
            review = await self._client.create(SubjectAccessReview(spec=spec))
        except StatusError as error:
            log.warning("asking whether %s may %s nodes/%s failed: %s", user.name, verb, subresource, error)
            raise
        allowed = bool(review.status.allowed)
        _trim(self._decisions)
        self._decisions[key] = (now + (ALLOWED_TTL if allowed else DENIED_TTL), allowed)
        return allowed


def _certificate_user(certificate: dict[str, Any]) -> User | None:
    name, groups = "", []
    for attribute in certificate.get("subject", ()):
        for key, value in attribute:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, (*groups, "system:authenticated")) if name else None


def _trim(cache: dict[Any, Any]) -> None:
    if len(cache) >= MAX_CACHED:
        cache.clear()
