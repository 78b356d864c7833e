"""The webhook backend: events are posted as EventLists to a service named by a kubeconfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from tiphys.apiserver.http.remote import RemoteError, RemoteService
from tiphys.base.clock import Clock

Object = dict[str, Any]
ATTEMPTS: Final = 5
FACTOR: Final = 1.5


class Webhook:
    """Implements `Sink`."""

    name = "webhook"

    def __init__(self, service: RemoteService, initial_backoff: float, clock: Clock) -> None:
        """`initial_backoff`: seconds before the second attempt; each later one waits half as long again."""
        self._service = service
        self._backoff = initial_backoff
        self._clock = clock

    async def write(self, events: Sequence[Object]) -> None:
        """See `Sink`. What may pass (no answer, 429, 5xx) is tried again."""
        listed = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": list(events)}
        body = orjson.dumps(listed)
        wait = self._backoff
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._service.post(body)
                return
            except RemoteError as error:
                if attempt == ATTEMPTS or (0 < error.status < 500 and error.status != 429):
                    raise
            await self._clock.sleep(wait)
            wait *= FACTOR

    async def close(self) -> None:
        """See `Sink`."""
        await self._service.close()
