"""Aggregator: follows the APIServices and answers for those of other servers.

    APIServices, Services, EndpointSlices, definitions of custom resources
        any change ─▶ sync: APIServices of custom resources made and removed
                            condition Local of what this server serves itself
                            a worker for each APIService of another server
                            order of groups ─▶ discovery
    request ─▶ route(path) ─▶ serve

Level-driven: a sync looks at everything there is, so lost or repeated changes are harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tiphys.apiserver.aggregator.apiservices import GROUP, PLURAL, Registration, by_priority
from tiphys.apiserver.aggregator.autoregister import CRD, synchronize
from tiphys.apiserver.aggregator.availability import LOCAL, condition, put, surroundings
from tiphys.apiserver.aggregator.metrics import AvailabilityMetrics
from tiphys.apiserver.aggregator.proxy import pass_on, unavailable, unreachable
from tiphys.apiserver.aggregator.transport import NoEndpointError, Transport, TransportError
from tiphys.apiserver.aggregator.worker import Parts, Worker
from tiphys.apiserver.bootstrap.changes import Changes
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.endpoints.request_info import RequestInfo, parse_request_info
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer
from tiphys.apiserver.openapi.merging import ForeignPart
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap
from tiphys.apiserver.watchcache import WatchCache
from tiphys.base.clock import Clock
from tiphys.base.tasks import Supervised
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.time import format_time

Object = dict[str, Any]

OWN: Final = ((GROUP, PLURAL), CRD)
SURROUNDINGS: Final = (("", "services"), ("discovery.k8s.io", "endpointslices"))
# Changes of Services and EndpointSlices come in bursts, and most are of others.
SETTLE: Final = 0.1  # seconds


def _nothing() -> None:
    return None


class Aggregator:
    """The loop and the handler; `start` and `stop` it. Implements discovery's `Registered` and OpenAPI's `Foreign`."""

    def __init__(
        self, resources: ResourceMap, reader: CacheReader, cache: WatchCache, clock: Clock, transport: Transport
    ) -> None:
        self._resources = resources
        self._reader = reader
        self._cache = cache
        self._clock = clock
        self._transport = transport
        self._writer = Writer(resources, reader, clock.now)
        self._metrics = AvailabilityMetrics()
        self._tasks = Supervised(clock)
        self._changes: Changes | None = None
        self._around: Changes | None = None
        self._routes: dict[tuple[str, str], Registration] = {}
        self._order: Sequence[tuple[str, Sequence[str]]] = ()
        # By name of the APIService.
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        # What has to hear of changes; set by the server.
        self.discovery_changed: Callable[[], None] = _nothing
        self.openapi_changed: Callable[[], None] = _nothing

    # --- life -------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Take in what is registered, and follow it."""
        kinds = [self._cache.kind(*one) for one in OWN]
        self._changes = Changes(kind for kind in kinds if kind is not None)
        await self._tasks.__aenter__()
        await self._sync()
        self._tasks.spawn(self._run, name="aggregator", restart=True)

    async def stop(self) -> None:
        """End the loop and the workers."""
        if self._changes is not None:
            await self._tasks.__aexit__(None, None, None)
            self._changes.close()
            self._changes = None
        self._hear_surroundings(wanted=False)
        for name in self._workers:
            self._metrics.forget(name)
        await self._transport.close()

    async def _run(self) -> None:
        assert self._changes is not None
        while True:
            await self._changes.changed.wait()
            self._changes.changed.clear()
            try:
                await self._sync()
            except BaseException:
                self._changes.changed.set()  # the next attempt looks again
                raise

    async def _follow_surroundings(self, around: Changes) -> None:
        """While anything is registered for another server: Services and EndpointSlices matter too."""
        while self._around is around:
            await around.changed.wait()
            await self._clock.sleep(SETTLE)
            around.changed.clear()
            if self._around is around:
                self._look()

    def _hear_surroundings(self, *, wanted: bool) -> None:
        if wanted and self._around is None:
            kinds = [self._cache.kind(*one) for one in SURROUNDINGS]
            around = self._around = Changes(kind for kind in kinds if kind is not None)
            self._tasks.spawn(partial(self._follow_surroundings, around), name="aggregator-endpoints", restart=True)
        elif not wanted and self._around is not None:
            self._around.close()
            self._around.changed.set()  # its task ends
            self._around = None

    # --- synchronizing ----------------------------------------------------------------------------
    async def _sync(self) -> None:
        found = [(Registration.of(obj), obj) for obj in self._reader.list(GROUP, PLURAL)]
        self._take([one for one, _ in found])
        # Writes come last: one that fails, and is tried again, keeps no request from its server.
        for one, obj in found:
            if one.service is None and condition(LOCAL, obj, self._now()) is not None:
                with suppress(NotFoundError):
                    await self._writer.change_status(GROUP, PLURAL, "", one.name, self._set_local)
        await synchronize(self._resources, self._reader, self._writer, self._clock.now())

    def _now(self) -> str:
        return format_time(self._clock.now())

    def _set_local(self, obj: Object) -> None:
        wanted = condition(LOCAL, obj, self._now())
        if wanted is not None and obj["spec"].get("service") is None:
            put(wanted, obj)

    def _take(self, registrations: Sequence[Registration]) -> None:
        order = by_priority(registrations)
        # The core group is never another server's: without it there would be no Service to find that server by.
        remote = {one.name: one for one in registrations if one.service is not None and one.group}
        routes = {(one.group, one.version): one for one in remote.values()}
        fewer = set(self._routes) != set(routes)
        self._routes = routes
        for name in set(self._workers) - set(remote):
            self._end(name)
        self._look()
        self._hear_surroundings(wanted=bool(remote))
        if order != self._order or fewer:
            self._order = order
            self.discovery_changed()

    def _look(self) -> None:
        """Show every worker what it depends on; start those that are missing."""
        for one in self._routes.values():
            assert one.service is not None
            around = surroundings(self._reader, one.service)
            known = self._workers.get(one.name)
            if known is not None and known[0].one.uid == one.uid:
                known[0].look(one, around)
                continue
            if known is not None:
                self._end(one.name)
            worker = Worker(one, around, self._parts())
            task = self._tasks.spawn(worker.run, name=f"apiservice-{one.name}", restart=True)
            self._workers[one.name] = worker, task

    def _parts(self) -> Parts:
        return Parts(
            transport=self._transport,
            reader=self._reader,
            writer=self._writer,
            clock=self._clock,
            metrics=self._metrics,
            discovery_changed=lambda: self.discovery_changed(),
            openapi_changed=lambda: self.openapi_changed(),
        )

    def _end(self, name: str) -> None:
        worker, task = self._workers.pop(name)
        task.cancel()
        self._metrics.forget(name)
        if worker.described is not None:
            self.openapi_changed()

    # --- requests ---------------------------------------------------------------------------------
    def route(self, path: str) -> Registration | None:
        """Who answers for a path, when it is not this server."""
        if not self._routes or not path.startswith("/apis/"):
            return None
        segments = path.split("/", 4)
        return self._routes.get((segments[2], segments[3])) if len(segments) > 3 else None

    async def serve(self, request: Request, info: RequestInfo, one: Registration) -> Answer:
        """The answer of the server of `one`; 503 while it is not available."""
        if not one.available:
            return unavailable()
        try:
            return await pass_on(self._transport, one, request, info)
        except NoEndpointError:
            return unavailable()
        except TransportError as error:
            if one.name in self._workers:
                self._workers[one.name][0].doubt()
            return unreachable(error)

    # --- for discovery and OpenAPI ----------------------------------------------------------------
    def order(self) -> Sequence[tuple[str, Sequence[str]]]:
        """See `Registered`."""
        return self._order

    def remote(self, group: str, version: str) -> Object | None:
        """See `Registered`."""
        one = self._routes.get((group, version))
        known = self._workers.get(one.name) if one is not None else None
        return known[0].entry if known is not None else None

    def parts(self) -> Sequence[ForeignPart]:
        """See `Foreign`."""
        return [worker.described for worker, _ in self._workers.values() if worker.described is not None]

    async def document(self, request: Request, place: str) -> Answer | None:
        """See `Foreign`."""
        one = self.route(f"/{place}")
        if one is None:
            return None
        query: Mapping[str, list[str]] = request.query if request.raw_query else {}
        return await self.serve(request, parse_request_info(request.method, request.path, query), one)
