"""ApiServer: the assembly. Reads top-down as a start-up does.

store ─ watch cache ─ a ResourceStore per resource ─ resource map ─┐
authentication, authorization, admission ──────────────────────────┼─ handler ─ HTTP server
discovery, OpenAPI, health, metrics ───────────────────────────────┘
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import ALL_RESOURCES, Resource
from tiphys.apiserver.admission.interface import AdmissionChain
from tiphys.apiserver.aggregator.aggregator import Aggregator
from tiphys.apiserver.audit.auditor import Auditor
from tiphys.apiserver.authn.interface import Authenticator
from tiphys.apiserver.authz.interface import Authorizer
from tiphys.apiserver.discovery.documents import Discovery, storage_version_hash
from tiphys.apiserver.endpoints.connect import Connector, KubeletAccess
from tiphys.apiserver.endpoints.context import Services
from tiphys.apiserver.endpoints.handler import ApiHandler
from tiphys.apiserver.endpoints.health import Check, Health
from tiphys.apiserver.endpoints.paths import PathHandler, PathHandlers
from tiphys.apiserver.flowcontrol.gate import Gate
from tiphys.apiserver.housekeeping import Compactor, SharedLeases
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.http.server import HttpServer, bound_socket, tls_context
from tiphys.apiserver.http.tls import ReloadingTls
from tiphys.apiserver.metrics import RequestMetrics
from tiphys.apiserver.openapi.service import OpenApiService
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.registry.conversion import STORAGE_VERSIONS, conversion_for
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap, ServedResource
from tiphys.apiserver.registry.store import ResourceStore
from tiphys.apiserver.registry.strategies import strategy_for
from tiphys.apiserver.registry.upstream_keys import layout
from tiphys.apiserver.service_keeper import ServiceKeeper
from tiphys.apiserver.store_metrics import StoreMetrics
from tiphys.apiserver.watchcache import WatchCache
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.log import get_logger
from tiphys.base.process_metrics import expose_process
from tiphys.store import Store, open_store

if TYPE_CHECKING:
    from tiphys.apiserver.encryption.keeper import EncryptionKeeper

log = get_logger(__name__)

EVENTS: Final = ("", "events")


@dataclass(slots=True, kw_only=True)
class Security:
    """Who is asking, may they, and what must a write pass."""

    authenticator: Authenticator
    authorizer: Authorizer
    admission: AdmissionChain = field(default_factory=AdmissionChain)


class ApiServer:
    """One API server. `start`, use, `stop`; everything it opened is closed then."""

    def __init__(
        self,
        options: ServerOptions,
        security: Security,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        resources: ResourceMap | None = None,
    ) -> None:
        """`store`: an open store to use (and leave open) instead of the one `options` name.

        `resources`: an empty map that `security` was given to read from.
        """
        self.options = options
        self.security = security
        self.clock = clock or SystemClock()
        self._given_store = store
        self.resources = resources or ResourceMap()
        self.reader = CacheReader(self.resources)
        self.addresses: list[tuple[str, int]] = []
        self.tls: ReloadingTls | None = None
        self._sockets: list[socket.socket] = []  # bound, not listening yet
        self.started = False
        # Handlers of subresources and reviews that need more than the registry, and of further paths.
        self.extra_resources: dict[tuple[str, str, str], Any] = connector(options).handlers()
        self.extra_paths: dict[str, PathHandler] = {}
        # OpenAPI definitions of custom resources, asked for when the documents are made.
        self.custom_definitions: Callable[[], dict[str, Any]] = dict
        # Other servers behind this one; None: requests, discovery and OpenAPI are all our own.
        self.aggregator: Aggregator | None = None
        self._store: Store | None = None
        self._http: HttpServer | None = None
        self._cache: WatchCache | None = None
        self._handler: ApiHandler | None = None
        self._services: ServiceKeeper | None = None
        ttl = timedelta(seconds=options.event_ttl_seconds)
        self._event_leases = SharedLeases(lambda: self.store, self.clock, ttl)
        self._housekeeping: list[asyncio.Task[None]] = []
        # What keeps to the EncryptionConfiguration, if there is one.
        self.keeper: EncryptionKeeper | None = None
        # Further checks of /healthz, /livez and /readyz.
        self._extra_checks: list[tuple[str, Check]] = []
        # Decides when a request is served; without one each is at once.
        self.gate: Gate | None = None
        # Records requests; without one none is.
        self.auditor: Auditor | None = None
        self._metrics: StoreMetrics | None = None
        self._no_process: list[Callable[[], None]] = []

    @property
    def cache(self) -> WatchCache:
        """The watch cache, once started."""
        assert self._cache is not None, "the server is not started"
        return self._cache

    @property
    def store(self) -> Store:
        """The store, once started."""
        assert self._store is not None, "the server is not started"
        return self._store

    # --- life -------------------------------------------------------------------------------------
    async def start(self) -> list[tuple[str, int]]:
        """Load the state and listen; the addresses bound. StoreOpenError, OSError (address in use), ssl.SSLError."""
        try:
            await self.load()
            await self.listen()
        except BaseException:
            await self.stop()
            raise
        return self.addresses

    async def load(self) -> None:
        """Open the store and fill the cache; nothing is served yet, but the registry can be used."""
        self._store = self._given_store or await self._open_store()
        self.keeper = await self._seal()
        self._cache = WatchCache(self._store)
        for resource in served_resources(self.options.runtime_config):
            self._serve(resource)
        await self._cache.start()
        options = self.options
        self._services = ServiceKeeper(
            self.resources, self.reader, self._store, self.clock, options.service_cidr, options.node_port_range
        )
        await self._services.start()
        compactor = Compactor(self._store, self.clock, timedelta(seconds=options.compaction_interval_seconds))
        if options.compaction_interval_seconds:
            self._housekeeping.append(asyncio.create_task(compactor.run(), name="compaction"))
        if self.keeper is not None:
            task = asyncio.create_task(self.keeper.run(self._cache.read_again), name="encryption-configuration")
            self._housekeeping.append(task)

    async def _open_store(self) -> Store:
        options = self.options
        # In etcd objects are where upstream has them: either can take the other's place.
        return await open_store(options.store, quota=options.quota, etcd=replace(options.etcd, layout=layout()))

    async def _seal(self) -> EncryptionKeeper | None:
        """Put encryption around the store, if the options ask for it. Raises ConfigError."""
        options = self.options
        if options.encryption_config is None:
            return None
        # Ciphers and gRPC are loaded only by who uses them.
        from tiphys.apiserver.encryption.keeper import EncryptionKeeper

        keeper = await EncryptionKeeper.open(
            self.store,
            options.encryption_config,
            options.etcd.prefix,
            self.clock,
            reload=options.encryption_config_reload,
        )
        self._store = keeper.store
        self._extra_checks.append(("kms-providers", keeper.check))
        return keeper

    def bind(self) -> list[tuple[str, int]]:
        """Take the addresses of the options, so that a port of 0 is known, without serving yet. OSError: one is taken.

        Optional: `listen` does it otherwise.
        """
        port = self.options.port
        for host in self.options.bind_addresses:
            self._sockets.append(bound_socket(host, port))
            name = self._sockets[-1].getsockname()
            self.addresses.append((str(name[0]), int(name[1])))
            port = self.addresses[-1][1]
        return self.addresses

    async def listen(self) -> None:
        """Serve requests on the addresses of the options."""
        options = self.options
        services = Services(
            resources=self.resources,
            cache=self.cache,
            admission=self.security.admission,
            authorizer=self.security.authorizer,
            now=self.clock.now,
            reader=self.reader,
            extra=self.extra_resources,
        )
        discovery = Discovery(self.resources, self._storage_hash)
        openapi = OpenApiService(self.resources, discovery, options.cache_directory)
        openapi.custom = self.custom_definitions
        health = Health(etcd=self._check_store, started=lambda: self.started, stopping=self._stopping)
        health.add(self._extra_checks)
        self._metrics = StoreMetrics(self.cache, self.store)
        paths = PathHandlers(discovery, health, openapi, self._server_address, self.extra_paths, self._metrics.refresh)
        self._no_process = expose_process()
        self._handler = ApiHandler(
            services, self.security.authenticator, paths, RequestMetrics(), self.gate, self.auditor
        )
        if self.aggregator is not None:
            self._handler.router = discovery.registered = openapi.foreign = self.aggregator
            self.aggregator.discovery_changed = discovery.changed
            self.aggregator.openapi_changed = openapi.changed
        self._http = HttpServer(self._handler, max_body=options.max_body_bytes)
        tls = None
        if options.tls_certificate is not None and options.tls_key is not None:
            authorities = [str(path) for path in (options.client_ca, options.requestheader_ca) if path is not None]
            identity = str(options.tls_certificate), str(options.tls_key)
            self.tls = ReloadingTls(lambda: tls_context(*identity, *authorities))
            tls = self.tls.context
        if self.auditor is not None:
            self.auditor.start()
        if not self._sockets:
            self.bind()
        while self._sockets:
            await self._http.listen_socket(self._sockets[0], tls)
            self._sockets.pop(0)  # the listener's from here on
        self._handler.ready = True
        self.started = True

    async def stop(self) -> None:
        """End everything this server began, in the reverse order. May be called at any time, also twice."""
        for task in self._housekeeping:
            task.cancel()
        await asyncio.gather(*self._housekeeping, return_exceptions=True)
        self._housekeeping.clear()
        if self._services is not None:
            await self._services.stop()
            self._services = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        while self._no_process:
            self._no_process.pop()()
        if self._cache is not None:
            self._cache.stop()
        if self._http is not None:
            await self._http.stop()
            self._http = None
        if self.auditor is not None:
            await self.auditor.stop()
            self.auditor = None
        while self._sockets:
            self._sockets.pop().close()
        if self._store is not None and self._given_store is None:
            await self._store.close()
        self._store = None

    # --- resources --------------------------------------------------------------------------------
    def _serve(self, resource: Resource) -> None:
        """Put a resource of the table into the map: over its store, or as one that is not stored."""
        if not {"get", "list"} <= set(resource.verbs) or resource.plural == "componentstatuses":
            self.resources.add_virtual(resource)
            return
        group, plural = resource.group, resource.plural
        storage = STORAGE_VERSIONS.get((group, plural), resource)
        store = self.resources.store(storage.group, storage.plural)
        if store is None:
            strategy = strategy_for(storage)
            kind = self.cache.register(
                storage.group,
                storage.plural,
                namespaced=storage.namespaced,
                selectable_fields=strategy.selectable_fields,
            )
            schema = schema_of(storage.group, storage.version, storage.kind)
            leases = self._event_leases if (storage.group, storage.plural) == EVENTS else None
            store = ResourceStore(strategy, kind, self.cache, self.clock.now, schema, leases)
        served_schema = None
        if has_schema(group, resource.version, resource.kind):
            served_schema = schema_of(group, resource.version, resource.kind)
        conversion = conversion_for(resource, storage)
        if resource.group_resource != store.group_resource:
            store = store.named_as(resource.group_resource, strategy_for(resource))
        self.resources.add(ServedResource(resource, store, served_schema, conversion))

    def _storage_hash(self, resource: Resource) -> str:
        served = self.resources.find(resource.group, resource.version, resource.plural)
        if served is None:
            return ""
        storage = served.store.resource
        version = HASHED_VERSIONS.get((storage.group, storage.plural), storage.version)
        return storage_version_hash(storage.group, version, storage.kind)

    # --- what the parts ask -----------------------------------------------------------------------
    async def _check_store(self) -> str | None:
        try:
            await asyncio.wait_for(self.store.current_revision(), 2.0)
        except Exception as error:
            return f"store: {error!r}"
        return None

    def _stopping(self) -> bool:
        return self._http is None or self._http.stopping

    def _server_address(self) -> str:
        host, port = self.addresses[0] if self.addresses else ("127.0.0.1", self.options.port)
        return f"{self.options.advertise_address or host}:{port}"


def connector(options: ServerOptions) -> Connector:
    """What reaches kubelets, pods and services as the options say."""
    access = KubeletAccess(
        options.kubelet_port,
        options.kubelet_client_certificate,
        options.kubelet_client_key,
        options.kubelet_ca,
    )
    return Connector(access, Egress(options.node_network_namespaces))


def served_resources(runtime_config: Mapping[str, bool]) -> list[Resource]:
    """The resources of the table that are served: stable versions, and what `runtime_config` turns on or off."""
    served = []
    for resource in ALL_RESOURCES:
        stage = "alpha" if "alpha" in resource.version else "beta" if "beta" in resource.version else "ga"
        wanted = stage == "ga"
        for key in ("api/all", f"api/{stage}", f"{resource.group}/{resource.version}".lstrip("/")):
            wanted = runtime_config.get(key, wanted)
        if wanted:
            served.append(resource)
    return served


# Upstream still stores these in an older version, which clients can only tell by the hash in discovery.
HASHED_VERSIONS: Final = {
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"): "v1beta1",
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"): "v1beta1",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "v1beta1",
}
