"""Acting as a service account: requests carry a token of the account, asked for and renewed as needed.

One process may act as many accounts over one pool of connections: the identity is in the request,
so the pool must not present a client certificate.
https://kubernetes.io/docs/reference/access-authn-authz/rbac/#controller-roles
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

from tiphys.api.authentication.v1 import TokenRequest, TokenRequestSpec
from tiphys.api.core.v1 import ServiceAccount
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.base.clock import Clock
from tiphys.client.rest import Client
from tiphys.client.transport import Response, StreamedResponse, Transport
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError
from tiphys.machinery.meta import ObjectName

LIFETIME: Final = timedelta(hours=1)
RENEW_BEFORE: Final = timedelta(minutes=12)


class ServiceAccountTransport:
    """Sends requests as `account`. `owner` makes the account if need be and asks for its tokens.

    Closing is the business of whoever made `pool`.
    """

    def __init__(self, pool: Transport, owner: Client, account: ObjectName, clock: Clock) -> None:
        self._pool = pool
        self._owner = owner
        self._account = account
        self._clock = clock
        self._token = ""
        self._expires: datetime | None = None
        self._one = asyncio.Lock()

    async def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Response:
        answer = await self._pool.request(method, target, await self._signed(headers), body)
        if answer.status != 401:
            return answer
        # The account was deleted and made again, or the signing key changed: one more try with a new token.
        self._expires = None
        return await self._pool.request(method, target, await self._signed(headers), body)

    @asynccontextmanager
    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncIterator[StreamedResponse]:
        async with self._pool.stream(target, await self._signed(headers)) as answer:
            if answer.status == 401:
                self._expires = None
            yield answer

    async def close(self) -> None:
        """Nothing of its own is open."""

    async def _signed(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        async with self._one:
            if self._expires is None or self._clock.now() > self._expires - RENEW_BEFORE:
                await self._renew()
        return {**headers, "Authorization": f"Bearer {self._token}"}

    async def _renew(self) -> None:
        request = TokenRequest(spec=TokenRequestSpec(expiration_seconds=int(LIFETIME.total_seconds())))
        try:
            answer = await self._owner.create_subresource(ServiceAccount, self._account, "token", request)
        except NotFoundError:
            metadata = ObjectMeta(name=self._account.name, namespace=self._account.namespace)
            with suppress(AlreadyExistsError):
                await self._owner.create(ServiceAccount(metadata=metadata))
            answer = await self._owner.create_subresource(ServiceAccount, self._account, "token", request)
        self._token = answer.status.token
        self._expires = answer.status.expiration_timestamp
