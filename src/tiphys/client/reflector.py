"""Keeps a cache equal to the server's state: list once, then follow the watch.

      list ──► watch from the list's revision ──► end or broken: watch again from the last revision seen
        ▲                                          │
        └──────────── 410: that revision is gone ──┘

The sink sees every object that stays, in order, but not every change: a relist shows only what
is there now. So whoever reads the cache must be level-driven.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client.endpoint import Object
from tiphys.client.results import ListResult, WatchEvent
from tiphys.client.transport import ApiConnectionError
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

T = TypeVar("T", bound=Object)

FIRST_BACKOFF: Final = 0.1  # seconds
LONGEST_BACKOFF: Final = 10.0
# A watch that lasted this long was healthy; its end is answered at once.
HEALTHY_AFTER: Final = 1.0


class ListWatch(Protocol[T]):
    """Where the objects come from."""

    async def list(self) -> ListResult[T]:
        """Everything there is now."""

    def watch(self, resource_version: str) -> AsyncGenerator[Sequence[WatchEvent[T]], None]:
        """What changes after `resource_version`."""


class Sink(Protocol[T]):
    """Where the objects go."""

    def replace(self, items: Sequence[T], resource_version: str) -> None:
        """The whole state; what is not in `items` is gone."""

    def apply(self, events: Sequence[WatchEvent[T]]) -> None:
        """Changes to the state, in order."""


class Reflector(Generic[T]):
    """One list-and-watch loop."""

    def __init__(self, source: ListWatch[T], sink: Sink[T], clock: Clock, name: str) -> None:
        self._source = source
        self._sink = sink
        self._clock = clock
        self._name = name
        self._revision = ""
        self._backoff = FIRST_BACKOFF

    async def run(self) -> None:
        """Follow the server until cancelled; errors are logged and answered with back-off."""
        while True:
            started = self._clock.monotonic()
            try:
                if not self._revision:
                    await self._list()
                await self._watch()
                if self._clock.monotonic() - started < HEALTHY_AFTER:
                    await self._pause()
            except (ApiConnectionError, StatusError, msgspec.MsgspecError) as error:
                if getattr(error, "code", 0) == 410:
                    log.info("%s: %s; listing again", self._name, error)
                    self._revision = ""
                elif not isinstance(error, ApiConnectionError):
                    # The server does not want this watch as it is: begin from the beginning.
                    log.warning("%s: %s", self._name, error)
                    self._revision = ""
                else:
                    log.debug("%s: %s", self._name, error)
                if self._clock.monotonic() - started > LONGEST_BACKOFF:
                    self._backoff = FIRST_BACKOFF
                await self._pause()

    async def _list(self) -> None:
        result = await self._source.list()
        self._sink.replace(result.items, result.resource_version)
        self._revision = result.resource_version
        self._backoff = FIRST_BACKOFF

    async def _watch(self) -> None:
        batches = self._source.watch(self._revision)
        async with aclosing(batches):
            async for batch in batches:
                self._sink.apply(batch)
                self._revision = batch[-1].resource_version
                self._backoff = FIRST_BACKOFF

    async def _pause(self) -> None:
        await self._clock.sleep(self._backoff * random.uniform(1.0, 1.5))
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)
