"""OidcTokens: tokens of one issuer, as one `TokenAuthenticator`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tiphys.apiserver.access_metrics import token_checked
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.authn.oidc.claims import Mappings
from tiphys.apiserver.authn.oidc.distributed import ClaimSources
from tiphys.apiserver.authn.oidc.jose import Token, parse_token
from tiphys.apiserver.authn.oidc.provider import Provider, ProviderError
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.base.clock import Clock


class OidcTokens:
    """Checks issuer, signature, audience and times; the mappings make the user."""

    def __init__(
        self,
        provider: Provider,
        audiences: Sequence[str],
        algorithms: Sequence[str],
        mappings: Mappings,
        clock: Clock,
    ) -> None:
        self._provider = provider
        self._audiences = tuple(audiences)
        self._algorithms = frozenset(algorithms)
        self._mappings = mappings
        self._clock = clock
        self._sources = ClaimSources(mappings.groups.claim, provider.ca, clock, self._verify)

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...]
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        """See `TokenAuthenticator`."""
        parsed = parse_token(token)
        if parsed is None or parsed.claims.get("iss") != self._provider.issuer:
            return None
        began = self._clock.monotonic()
        try:
            found = await self._checked(parsed)
        except InvalidToken:
            token_checked(self._provider.issuer, "failure", self._clock.monotonic() - began)
            raise
        token_checked(self._provider.issuer, "success", self._clock.monotonic() - began)
        return found, audiences

    async def _checked(self, parsed: Token) -> UserInfo:
        """The user of a token of this issuer. InvalidToken."""
        await self._verify(parsed, self._provider)
        return self._mappings.user(await self._sources.expanded(parsed.claims))

    async def _verify(self, parsed: Token, provider: Provider) -> None:
        """Algorithm, audience, times and signature. InvalidToken."""
        if parsed.algorithm not in self._algorithms:
            allowed = " ".join(sorted(self._algorithms))
            raise InvalidToken(
                f'oidc: verify token: oidc: id token signed with unsupported algorithm, expected ["{allowed}"] got '
                f'"{parsed.algorithm}"'
            )
        claims = parsed.claims
        offered = claims.get("aud")
        offered = [offered] if isinstance(offered, str) else list(offered or ())
        if not any(audience in offered for audience in self._audiences):
            expected = self._audiences[0] if len(self._audiences) == 1 else " ".join(self._audiences)
            shown = " ".join(f'"{audience}"' for audience in offered)
            raise InvalidToken(f'oidc: verify token: oidc: expected audience "{expected}" got [{shown}]')
        self._check_times(claims.get("exp"), claims.get("nbf"))
        try:
            signed = await provider.signed(parsed)
        except ProviderError as error:
            raise InvalidToken(f"oidc: authenticator not initialized: {error}") from None
        if not signed:
            raise InvalidToken("oidc: verify token: failed to verify signature: failed to verify id token signature")

    def _check_times(self, expires: object, begins: object) -> None:
        now = self._clock.now().timestamp()
        if not isinstance(expires, int | float) or now >= expires:
            when = datetime.fromtimestamp(expires, UTC) if isinstance(expires, int | float) else "unknown"
            raise InvalidToken(f"oidc: verify token: oidc: token is expired (Token Expiry: {when})")
        # Five minutes are granted to clocks that differ.
        if isinstance(begins, int | float) and now + 300 < begins:
            raise InvalidToken("oidc: verify token: oidc: current time before the nbf (not before) time")
