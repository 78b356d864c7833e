"""A worker for each APIService of another server: checks it, tells the result, fetches what discovery and OpenAPI need.

    look() ── something it depends on has changed ─▶ ┐
    30 s, or the back-off after a failure ──────────▶ ┴ check ─▶ condition, metrics ─▶ (available) discovery, OpenAPI

Workers do not wait for each other: a server that answers slowly delays only what is said about itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tiphys.apiserver.aggregator.apiservices import GROUP, PLURAL, Registration, available_condition
from tiphys.apiserver.aggregator.availability import Surroundings, Verdict, check, condition, put
from tiphys.apiserver.aggregator.discovery import Discovered, discover, stale
from tiphys.apiserver.aggregator.metrics import AvailabilityMetrics
from tiphys.apiserver.aggregator.openapi import describe
from tiphys.apiserver.aggregator.transport import Transport, TransportError
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.openapi.merging import ForeignPart
from tiphys.apiserver.registry.strategy import Reader
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

log = get_logger(__name__)

CHECK_INTERVAL: Final = 30.0  # seconds between checks of a server that is well
FIRST_RETRY: Final = 0.5  # seconds until a server that is not well is checked again; doubles to CHECK_INTERVAL
FETCH_INTERVAL: Final = 60.0  # seconds until what a server serves is asked for again


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What workers share."""

    transport: Transport
    reader: Reader
    writer: Writer
    clock: Clock
    metrics: AvailabilityMetrics
    discovery_changed: Callable[[], None]
    openapi_changed: Callable[[], None]


class Worker:
    """See the module. `run` it as a task; `entry` and `described` are what is known of the server."""

    def __init__(self, one: Registration, around: Surroundings, parts: Parts) -> None:
        self.one = one
        self._around = around
        self._parts = parts
        self._changed = asyncio.Event()
        self._failures = 0
        self._discovered: Discovered | None = None
        self._fetched_at: float | None = None
        self.entry: dict[str, Any] = stale(one.version)
        self.described: ForeignPart | None = None

    def look(self, one: Registration, around: Surroundings) -> None:
        """Take in what is registered now; a check follows when anything it depends on has changed."""
        before, self.one = self.one, one
        if (one.backend, one.uid) != (before.backend, before.uid):
            self._discovered, self._fetched_at = None, None
        elif around == self._around:
            return
        self._around = around
        self._failures = 0
        self._fetched_at = None
        self._changed.set()

    def doubt(self) -> None:
        """A request did not reach the server: check it now."""
        self._changed.set()

    async def run(self) -> None:
        """Check again and again; never returns."""
        while True:
            self._changed.clear()
            verdict = await check(self._parts.transport, self.one, self._around)
            due = verdict.available and self._due()
            if due:
                await self._discover()  # first, so that who waits for the condition finds the group in discovery
            await self._tell(verdict)
            if due:
                await self._describe()
            self._failures = 0 if verdict.available else self._failures + 1
            if not verdict.available:
                self._fetched_at = None
                self._set_entry(stale(self.one.version))
            await self._wait()

    async def _wait(self) -> None:
        delay = (
            min(FIRST_RETRY * 2 ** min(self._failures - 1, 10), CHECK_INTERVAL) if self._failures else CHECK_INTERVAL
        )
        tasks = [
            asyncio.ensure_future(self._changed.wait()),
            asyncio.ensure_future(self._parts.clock.sleep(delay)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- availability -----------------------------------------------------------------------------
    async def _tell(self, verdict: Verdict) -> None:
        parts, name = self._parts, self.one.name
        found = parts.reader.get(GROUP, PLURAL, ObjectName("", name))
        if found is None or found["metadata"]["uid"] != self.one.uid:
            return
        known = available_condition(found)
        if known is not None and known.get("status") == "True" and not verdict.available:
            log.warning("%s is not available: %s", name, verdict.message)
            parts.metrics.became_unavailable(name, verdict.reason)
        parts.metrics.available(name, available=verdict.available)
        if condition(verdict, found, self._now()) is not None:
            with suppress(NotFoundError):
                await parts.writer.change_status(GROUP, PLURAL, "", name, partial(self._set, verdict))

    def _set(self, verdict: Verdict, obj: dict[str, Any]) -> None:
        wanted = condition(verdict, obj, self._now())
        if wanted is not None:
            put(wanted, obj)

    def _now(self) -> str:
        return format_time(self._parts.clock.now())

    # --- what it serves ---------------------------------------------------------------------------
    def _due(self) -> bool:
        """Whether the server is to be asked again what it serves; counts from now if so."""
        now = self._parts.clock.monotonic()
        if self._fetched_at is not None and now - self._fetched_at < FETCH_INTERVAL:
            return False
        self._fetched_at = now
        return True

    async def _discover(self) -> None:
        try:
            self._discovered = await discover(self._parts.transport, self.one, self._discovered)
        except (TransportError, KeyError, TypeError, AttributeError) as error:
            log.warning("what %s serves cannot be found out: %s", self.one.name, error)
            self._fetched_at = None
            self._set_entry(stale(self.one.version))
        else:
            self._set_entry(self._discovered.entry)

    async def _describe(self) -> None:
        try:
            described = await describe(self._parts.transport, self.one, self.described)
        except TransportError as error:
            log.info("the OpenAPI documents of %s cannot be had: %s", self.one.name, error)
            return
        if described is not self.described:
            self.described = described
            self._parts.openapi_changed()

    def _set_entry(self, entry: dict[str, Any]) -> None:
        if entry != self.entry:
            self.entry = entry
            self._parts.discovery_changed()
