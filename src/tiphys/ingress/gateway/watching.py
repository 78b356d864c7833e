"""The Gateway API's objects, watched from the moment their CRDs are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from tiphys.base.log import get_logger
from tiphys.client import ApiConnectionError, Client, Informers
from tiphys.client.endpoint import Endpoint
from tiphys.ingress.gateway.types import (
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    REFERENCE_GRANTS,
    Gateway,
    GatewayClass,
    HTTPRoute,
    ReferenceGrant,
)
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

LOOK_AGAIN: Final = 5.0  # seconds between looks for CRDs that are not there
NEEDED: Final[tuple[Endpoint[Any], ...]] = (GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES)


class GatewayObjects:
    """Their caches; empty where the cluster knows no such kinds. `known` is set when that is known."""

    def __init__(self, client: Client, informers: Informers, on_change: Callable[[object], None]) -> None:
        self._client = client
        self._informers = informers
        self._on_change = on_change
        self._served = False
        self._has_grants = False
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Look for the kinds, and watch them; return when they are all there and in the caches."""
        while not (self._served and self._has_grants):
            if not self._served and await self._are_there(*NEEDED):
                for one in NEEDED:
                    await self._watch(one)
                self._served = True
                log.info("the cluster has the Gateway API")
                self._on_change(None)
            if self._served and not self._has_grants and await self._are_there(REFERENCE_GRANTS):
                await self._watch(REFERENCE_GRANTS)
                self._has_grants = True
                self._on_change(None)
            self.known.set()
            if not (self._served and self._has_grants):
                await asyncio.sleep(LOOK_AGAIN)

    async def _are_there(self, *kinds: Endpoint[Any]) -> bool:
        try:
            for one in kinds:
                await self._client.list(one, limit=1)
        except (StatusError, ApiConnectionError):
            return False
        return True

    async def _watch(self, kind: Endpoint[Any]) -> None:
        informer = self._informers.of(kind)
        informer.add_handler(self._on_change, lambda _, new: self._on_change(new), self._on_change)
        await informer.synced()

    def classes(self) -> Sequence[GatewayClass]:
        """All GatewayClasses."""
        return list(self._informers.of(GATEWAY_CLASSES).lister.list()) if self._served else ()

    def gateways(self) -> Sequence[Gateway]:
        """All Gateways."""
        return list(self._informers.of(GATEWAYS).lister.list()) if self._served else ()

    def routes(self) -> Sequence[HTTPRoute]:
        """All HTTPRoutes."""
        return list(self._informers.of(HTTP_ROUTES).lister.list()) if self._served else ()

    def reference_grants(self) -> Sequence[ReferenceGrant]:
        """All ReferenceGrants."""
        return list(self._informers.of(REFERENCE_GRANTS).lister.list()) if self._has_grants else ()
