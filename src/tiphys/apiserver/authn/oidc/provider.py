"""Provider: an issuer's discovery document and keys, fetched over TLS when first needed and again when keys change.

OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson

from tiphys.apiserver.authn.oidc.jose import Key, Token, keys_of, verify
from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger

log = get_logger(__name__)

WELL_KNOWN: Final = "/.well-known/openid-configuration"
# A token with an unknown key makes the keys be fetched again, but not more often than this.
LEAST_INTERVAL: Final = 1.0  # seconds


class ProviderError(Exception):
    """The provider cannot be asked, or its documents are wrong."""


class Provider:
    """Checks signatures with an issuer's current keys."""

    def __init__(self, issuer: str, discovery_url: str, ca: bytes, clock: Clock) -> None:
        """`discovery_url` "" is below the issuer; `ca`: PEM, b"" trusts what the machine trusts."""
        self.issuer = issuer
        self._discovery_url = discovery_url or issuer.rstrip("/") + WELL_KNOWN
        self._ca = ca
        self._clock = clock
        self._keys: list[tuple[str, Key]] = []
        self._key_set_url = ""
        self._fetched: float | None = None
        self._fetching = asyncio.Lock()

    @property
    def ca(self) -> bytes:
        """Whose certificates its servers show."""
        return self._ca

    async def signed(self, token: Token) -> bool:
        """Whether one of the issuer's keys signed the token. Raises ProviderError when nobody can tell."""
        if self._fetched is not None and self._verified(token):
            return True
        async with self._fetching:
            if self._fetched is not None:
                if self._verified(token):  # fetched by another request meanwhile
                    return True
                if self._clock.monotonic() - self._fetched < LEAST_INTERVAL:
                    return False
            await self._fetch()
        return self._verified(token)

    def _verified(self, token: Token) -> bool:
        kid = token.key_id
        keys = [key for known, key in self._keys if not kid or not known or known == kid]
        return any(verify(token, key) for key in keys)

    async def _fetch(self) -> None:
        if not self._key_set_url:
            document = await self._get(self._discovery_url)
            if document.get("issuer") != self.issuer:
                raise ProviderError(
                    f"oidc: issuer did not match the issuer returned by provider, expected {self.issuer!r} "
                    f"got {document.get('issuer')!r}".replace("'", '"')
                )
            self._key_set_url = str(document.get("jwks_uri") or "")
            if not self._key_set_url:
                raise ProviderError("oidc: the provider's discovery document has no jwks_uri")
        self._keys = keys_of(await self._get(self._key_set_url))
        self._fetched = self._clock.monotonic()

    async def _get(self, url: str) -> dict[str, Any]:
        service = RemoteService.at(url, self._ca)
        try:
            found = orjson.loads(await service.get())
        except RemoteError as error:
            raise ProviderError(str(error)) from None
        except ValueError as error:
            raise ProviderError(f"failed to decode {url}: {error}") from None
        finally:
            await service.close()
        if not isinstance(found, dict):
            raise ProviderError(f"failed to decode {url}: it is no object")
        return found
