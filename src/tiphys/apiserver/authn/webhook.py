"""Tokens that a service outside knows: a TokenReview is posted to it, and its answer remembered for a while.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import orjson

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger

log = get_logger(__name__)

REMEMBERED: Final = 10_000
TOO_MANY_REQUESTS: Final = 429
# A service that fails is asked again: half a second later, then each time half as long again.
ATTEMPTS: Final = 5
FIRST_WAIT: Final = 0.5  # seconds
FACTOR: Final = 1.5

Found = tuple[UserInfo, tuple[str, ...]] | None


async def post_again(service: RemoteService, body: bytes, clock: Clock, first_wait: float = FIRST_WAIT) -> bytes:
    """Post, again while the service fails; one that cannot be reached is not asked again. Raises RemoteError."""
    wait = first_wait
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await service.post(body)
        except RemoteError as error:
            if attempt == ATTEMPTS or not (error.status >= 500 or error.status == TOO_MANY_REQUESTS):
                raise
        await clock.sleep(wait)
        wait *= FACTOR
    raise AssertionError("the last attempt returns or raises")


def user_of(shown: dict[str, Any]) -> UserInfo:
    """The user an answer shows."""
    extra = {str(key).lower(): tuple(values or ()) for key, values in (shown.get("extra") or {}).items()}
    return UserInfo(shown.get("username") or "", shown.get("uid") or "", tuple(shown.get("groups") or ()), extra)


class WebhookTokens:
    """Implements `TokenAuthenticator`."""

    def __init__(self, service: RemoteService, version: str, ttl: float, clock: Clock) -> None:
        """`version` of authentication.k8s.io; `ttl`: seconds an answer is remembered."""
        self._service = service
        self._version = f"authentication.k8s.io/{version}"
        self._ttl = ttl
        self._clock = clock
        # Hashes of tokens, not tokens: memory is read by more people than it should.
        self._answers: dict[bytes, tuple[float, Found, str]] = {}

    async def authenticate_token(self, token: str, audiences: tuple[str, ...]) -> Found:
        """See `TokenAuthenticator`."""
        key = hashlib.sha256("\0".join((token, *audiences)).encode()).digest()
        now = self._clock.monotonic()
        known = self._answers.get(key)
        if known is None or known[0] <= now:
            found, problem = await self._ask(token, audiences)
            known = (now + self._ttl, found, problem)
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            self._answers[key] = known
        if known[2]:
            raise InvalidToken(known[2])
        return known[1]

    async def _ask(self, token: str, audiences: tuple[str, ...]) -> tuple[Found, str]:
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        review = {"kind": "TokenReview", "apiVersion": self._version, "metadata": {}, "spec": spec}
        try:
            answer = orjson.loads(await post_again(self._service, orjson.dumps(review), self._clock))
        except (RemoteError, ValueError) as error:
            log.error("Failed to make webhook authenticator request: %s", error)
            raise InvalidToken(str(error)) from None
        status = answer.get("status") or {} if isinstance(answer, dict) else {}
        if not status.get("authenticated"):
            return None, str(status.get("error") or "")
        offered = tuple(status.get("audiences") or ())
        matching = tuple(one for one in audiences if one in offered) if offered else audiences
        if audiences and not matching:
            return None, ""
        return (user_of(status.get("user") or {}), matching), ""

    async def close(self) -> None:
        """End the connections."""
        await self._service.close()
