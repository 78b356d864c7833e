"""The authenticators in the order they are asked, and the groups every answer gets.

    proxy's headers → client certificate → bearer token (file, service account, bootstrap, OIDC, webhook) → anonymous

The first that answers decides. A token that none of them knows is refused; a request without any
credentials is anonymous where that is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tiphys.apiserver.authn.interface import (
    ANONYMOUS,
    GROUP_ALL_AUTHENTICATED,
    GROUP_ALL_UNAUTHENTICATED,
    Authenticator,
    Credentials,
    UserInfo,
)
from tiphys.apiserver.authn.tokens import InvalidToken, TokenAuthenticator, bearer_token
from tiphys.base.log import get_logger
from tiphys.machinery.errors import unauthorized

log = get_logger(__name__)

_ANONYMOUS_USER = UserInfo(ANONYMOUS, groups=(GROUP_ALL_UNAUTHENTICATED,))


def with_authenticated_group(user: UserInfo) -> UserInfo:
    """Everyone who has proven an identity is in system:authenticated."""
    known = _GROUPED.get(id(user))
    if known is not None and known[0] is user:
        return known[1]
    found = user
    if GROUP_ALL_AUTHENTICATED not in user.groups and GROUP_ALL_UNAUTHENTICATED not in user.groups:
        found = replace(user, groups=(*user.groups, GROUP_ALL_AUTHENTICATED))
    if len(_GROUPED) >= _REMEMBERED:
        _GROUPED.clear()
    _GROUPED[id(user)] = user, found
    return found


# Users of certificates and of tokens that were seen before are the same objects each time; what is kept stays alive,
# and so its id is nobody else's.
_GROUPED: dict[int, tuple[UserInfo, UserInfo]] = {}
_REMEMBERED: Final = 1024


class TokenChain:
    """Asks the token authenticators in order; used for requests and by TokenReview."""

    def __init__(self, authenticators: Sequence[TokenAuthenticator]) -> None:
        self._authenticators = tuple(authenticators)

    def replace(self, authenticators: Sequence[TokenAuthenticator]) -> None:
        """Ask others from now on."""
        self._authenticators = tuple(authenticators)

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...] = ()
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        """The token's user and audiences; None when nobody knows it. Raises the last InvalidToken when all refused."""
        refused: InvalidToken | None = None
        for authenticator in self._authenticators:
            try:
                found = await authenticator.authenticate_token(token, audiences)
            except InvalidToken as error:
                refused = error
                continue
            if found is not None:
                return with_authenticated_group(found[0]), found[1]
        if refused is not None:
            raise refused
        return None


class AuthenticatorChain:
    """Who is asking, for every request."""

    def __init__(
        self,
        certificates: Sequence[Authenticator],
        tokens: TokenChain,
        *,
        anonymous: bool = True,
        anonymous_paths: frozenset[str] = frozenset(),
    ) -> None:
        """`anonymous_paths`: only these may be asked for without credentials; none are all."""
        self._certificates = tuple(certificates)
        self._anonymous_paths = anonymous_paths
        self._tokens = tokens
        self._anonymous = anonymous

    async def authenticate(self, request: Credentials) -> UserInfo | None:
        """The user; never None in practice, as whoever cannot be told is anonymous or gets 401 (StatusError)."""
        for authenticator in self._certificates:
            user = await authenticator.authenticate(request)
            if user is not None:
                return with_authenticated_group(user)
        token = bearer_token(request)
        if token:
            try:
                found = await self._tokens.authenticate_token(token)
            except InvalidToken as error:
                log.info("a bearer token was refused: %s", error)
                found = None
            if found is None:
                raise unauthorized()
            return found[0]
        if not self._anonymous or (self._anonymous_paths and request.path not in self._anonymous_paths):
            raise unauthorized()
        return _ANONYMOUS_USER
