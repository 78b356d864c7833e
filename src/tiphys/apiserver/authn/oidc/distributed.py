"""Distributed claims: groups that are not in the token but in another one, to be had at an endpoint the token names.

    "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://…", "access_token": "…"}}

For providers whose users are in more groups than a token has room for. OpenID Connect Core 1.0, 5.6.2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tiphys.apiserver.authn.oidc.jose import Token, parse_token
from tiphys.apiserver.authn.oidc.provider import Provider
from tiphys.apiserver.authn.tokens import InvalidToken
from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.clock import Clock

Claims = Mapping[str, Any]
Verify = Callable[[Token, Provider], Awaitable[None]]


class ClaimSources:
    """Finds one claim at its source."""

    def __init__(self, claim: str, ca: bytes, clock: Clock, verify: Verify) -> None:
        """`ca`: PEM, b"" trusts what the machine trusts. `verify` raises InvalidToken for a token that is not good."""
        self._claim = claim
        self._ca = ca
        self._clock = clock
        self._verify = verify
        self._providers: dict[str, Provider] = {}

    async def expanded(self, claims: Claims) -> Claims:
        """The claims with the one that is elsewhere; as they are when it is not. InvalidToken."""
        names = claims.get("_claim_names")
        if not self._claim or not isinstance(names, dict) or self._claim not in names:
            return claims
        source = str(names[self._claim])
        sources = claims.get("_claim_sources")
        found = sources.get(source) if isinstance(sources, dict) else None
        if not isinstance(found, dict):
            raise _failed(f'invalid config - _claim_names["{self._claim}"] references non-existent _claim_sources')
        # Aggregated claims, whose token is in the source itself, are not for Kubernetes: only endpoints are asked.
        endpoint = str(found.get("endpoint") or "")
        if not endpoint:
            return claims
        value = await self._value(endpoint, str(found.get("access_token") or ""))
        return {**claims, self._claim: value}

    async def _value(self, endpoint: str, access_token: str) -> Any:
        service = RemoteService.at(endpoint, self._ca, access_token)
        try:
            text = (await service.get()).decode("ascii", "replace").strip()
        except (RemoteError, ValueError) as error:
            raise _failed(f"while getting distributed claim {self._claim!r}: {error}".replace("'", '"')) from None
        finally:
            await service.close()
        token = parse_token(text)
        issuer = "" if token is None else str(token.claims.get("iss") or "")
        if token is None or not issuer:
            raise _failed("distributed claim token is no token of an issuer")
        provider = self._providers.get(issuer)
        if provider is None:
            provider = self._providers[issuer] = Provider(issuer, "", self._ca, self._clock)
        await self._verify(token, provider)
        if self._claim not in token.claims:
            raise _failed(f'claim "{self._claim}" not found in distributed claim token')
        return token.claims[self._claim]


def _failed(why: str) -> InvalidToken:
    return InvalidToken(f"oidc: could not expand distributed claims: {why}")
