"""The ingress controller of one node: what the API says becomes what the node's proxy does.

Level-driven: a change of any object wakes it; after a moment that gathers what comes together everything is looked at
again. When only endpoints changed the running proxy is told; else it gets a new configuration. One controller of the
cluster, the holder of the lease, writes statuses (`status`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiphys.api.core.v1 import Namespace, Secret, Service
from tiphys.api.discovery.v1 import EndpointSlice
from tiphys.api.networking.v1 import Ingress, IngressClass
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, EventRecorder, Informers
from tiphys.ingress.certificates import own_certificate
from tiphys.ingress.gateway.translate import Outcome, Translation
from tiphys.ingress.gateway.watching import GatewayObjects
from tiphys.ingress.haproxy import backends, servers
from tiphys.ingress.haproxy.config import Configuration, Settings, configuration
from tiphys.ingress.haproxy.process import Haproxy, HaproxyError, RefusedError
from tiphys.ingress.haproxy.words import UnsafeTextError
from tiphys.ingress.ingresses import Wanted, is_ours, wanted_of
from tiphys.ingress.model import Site
from tiphys.ingress.services import BY_SERVICE, Services, index_by_service
from tiphys.ingress.site import site_of, without_expressions
from tiphys.ingress.status import StatusWriter
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

TLS_SECRETS: Final = "type=kubernetes.io/tls"
GATHER: Final = 0.1  # seconds
RETRY: Final = 2.0
CHECK: Final = 2.0  # seconds between looks at the proxy's process


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressConfig:
    """What an administrator chooses. `ports` are those of Ingresses, plain and TLS."""

    node_name: str
    directory: Path
    ports: tuple[int, int] = (80, 443)
    status_address: str = "0.0.0.0:10254"
    addresses: tuple[str, ...] = ()  # written into statuses; none: the nodes' own


class IngressController:
    """See the module. `ready` is set when the proxy runs; `informers.run()` is the caller's business."""

    def __init__(self, client: Client, informers: Informers, config: IngressConfig, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._settings = Settings(config.directory, config.status_address)
        self._proxy = Haproxy(self._settings)
        self._ingresses = informers.of(Ingress)
        self._classes = informers.of(IngressClass)
        self._services = informers.of(Service)
        self._slices = informers.of(EndpointSlice)
        self._secrets = informers.of(Secret, field_selector=TLS_SECRETS)
        self._namespaces = informers.of(Namespace)
        self._gateways = GatewayObjects(client, informers, self._mark)
        self._slices.add_index(BY_SERVICE, index_by_service)
        self._recorder = EventRecorder(client, self._clock, "tiphys-ingress", config.node_name)
        self._status = StatusWriter(client, informers, config.node_name, config.addresses, self._clock)
        self._changed = asyncio.Event()
        self._routes_changed = True
        self._site = Site()
        self._running: Configuration | None = None
        self._told: dict[ObjectName, list[str]] = {}
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Keep the proxy as the API wants it until cancelled; then the proxy ends too."""
        watched: tuple[Any, ...] = (self._ingresses, self._classes, self._services, self._secrets, self._namespaces)
        for informer in watched:
            informer.add_handler(self._mark, lambda _, new: self._mark(new), self._mark)
        self._slices.add_handler(self._mark_endpoints, lambda _, new: self._mark_endpoints(new), self._mark_endpoints)
        for informer in (*watched, self._slices):
            await informer.synced()
        try:
            async with Supervised(self._clock) as tasks:
                tasks.spawn(self._recorder.run, name="ingress events")
                tasks.spawn(self._gateways.run, name="gateway objects", restart=True)
                tasks.spawn(self._status.run, name="ingress statuses", restart=True)
                tasks.spawn(self._watch_process, name="haproxy", restart=True)
                await self._gateways.known.wait()
                await self._follow()
        finally:
            await self._proxy.stop()

    def _mark(self, _: object) -> None:
        self._routes_changed = True
        self._changed.set()

    def _mark_endpoints(self, _: object) -> None:
        self._changed.set()

    async def _follow(self) -> None:
        self._changed.set()
        while True:
            await self._changed.wait()
            await self._clock.sleep(GATHER if self.ready.is_set() else 0)
            self._changed.clear()
            try:
                await self._sync()
            except (HaproxyError, UnsafeTextError, OSError) as error:
                log.error("the proxy could not be changed: %s", error)
                await self._clock.sleep(RETRY)
                self._mark(None)
                continue
            self.ready.set()

    async def _watch_process(self) -> None:
        """A proxy that died is started again, with what is wanted now."""
        while True:
            await self._clock.sleep(CHECK)
            if self.ready.is_set() and not self._proxy.pid():
                log.error("haproxy is gone; starting another")
                self._running = None
                self._mark(None)

    # --- one turn ----------------------------------------------------------------------------

    async def _sync(self) -> None:
        if not self._routes_changed and self._running is not None and await self._move_endpoints(self._running):
            return
        self._routes_changed = False
        services = Services(self._services.lister, self._slices.lister)
        ours = self._ours()
        wanted = wanted_of(ours, services, self._secrets.lister.get)
        outcome = self._translate(services)
        own = own_certificate(self._config.directory / "own" / "default.pem")
        site = site_of(wanted, outcome, own, self._config.ports)
        if site == self._site and self._running is not None and await self._move_endpoints(self._running):
            self._say(ours, wanted, outcome)
            return
        await self._apply(site, services.endpoints)
        self._site = site
        self._say(ours, wanted, outcome)

    def _ours(self) -> list[Ingress]:
        classes = {each.metadata.name: each for each in self._classes.lister.list()}
        return [each for each in self._ingresses.lister.list() if is_ours(each, classes)]

    def _translate(self, services: Services) -> Outcome:
        objects = self._gateways
        translation = Translation(
            services, self._secrets.lister.get, self._namespaces.lister.get, objects.reference_grants()
        )
        return translation.translate(objects.classes(), objects.gateways(), objects.routes())

    async def _apply(self, site: Site, resolve: backends.Resolve) -> None:
        before = self._running.slots if self._running is not None else {}
        made = configuration(site, self._settings, resolve, before)
        try:
            await self._run_with(made)
        except RefusedError as error:
            log.error("%s; trying without what users wrote as expressions", error)
            made = configuration(without_expressions(site), self._settings, resolve, before)
            await self._run_with(made)

    async def _run_with(self, made: Configuration) -> None:
        await self._proxy.apply(made.files, made.generation)
        # A process that had this configuration before may have other endpoints in its slots.
        await servers.tell(self._proxy, servers.everything(made.slots))
        self._running = made

    async def _move_endpoints(self, running: Configuration) -> bool:
        """Tell the running proxy of endpoints that changed; False when it needs a new configuration."""
        resolve: Callable[..., Any] = Services(self._services.lister, self._slices.lister).endpoints
        changes: dict[str, servers.Changes] = {}
        for name, slots in running.slots.items():
            moved = slots.place(backends.servers_of(running.actions[name], resolve))
            if moved is None:
                return False
            if moved:
                changes[name] = moved
        try:
            await servers.tell(self._proxy, changes)
        except HaproxyError as error:
            log.warning("%s; giving the proxy its whole configuration", error)
            self._running = None
            return False
        return True

    def _say(self, ours: list[Ingress], wanted: Wanted, outcome: Outcome) -> None:
        """Events about what is wrong, once each; statuses are the leader's to write."""
        for name, problems in wanted.problems.items():
            ingress = self._ingresses.lister.get(name)
            for problem in problems:
                if ingress is not None and problem not in self._told.get(name, ()):
                    self._recorder.event(ingress, "Warning", "Rejected", problem)
        self._told = dict(wanted.problems)
        self._status.want(ours, outcome, self._gateways)
