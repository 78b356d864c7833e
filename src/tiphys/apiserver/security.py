"""Who is asking, may they, and what must a write pass: put together from the options and the watch caches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from tiphys.apiserver.access import Outside, authenticator, authorities_of, authorizers, issuers_of, outside
from tiphys.apiserver.admission.base import AdmissionParts
from tiphys.apiserver.admission.configuration import load_configuration as load_admission
from tiphys.apiserver.admission.plugins import admission_chain
from tiphys.apiserver.admission.webhooks.caller import HttpsCaller
from tiphys.apiserver.admission.webhooks.versions import ServedVersions
from tiphys.apiserver.aggregator.aggregator import Aggregator
from tiphys.apiserver.aggregator.transport import ProxyCertificate, Transport
from tiphys.apiserver.audit.auditor import auditor
from tiphys.apiserver.authn.chain import TokenChain
from tiphys.apiserver.authn.configuration import configuration_from as authentication_from
from tiphys.apiserver.authn.issued import Issuers
from tiphys.apiserver.authn.service_account import (
    PublicKey,
    ServiceAccountTokens,
    TokenIssuer,
    base64url,
    key_id,
    load_private_key,
    load_public_keys,
)
from tiphys.apiserver.authn.tokens import BootstrapTokens, StaticTokens, TokenAuthenticator
from tiphys.apiserver.authn.webhook import WebhookTokens
from tiphys.apiserver.authz.configuration import Configured
from tiphys.apiserver.authz.configuration import configuration_from as authorization_from
from tiphys.apiserver.authz.interface import Authorizer
from tiphys.apiserver.authz.node import NodeAuthorizer
from tiphys.apiserver.authz.pod_index import PodIndex
from tiphys.apiserver.authz.rbac import KINDS, RBACAuthorizer
from tiphys.apiserver.authz.resolve import Resolver
from tiphys.apiserver.authz.rules import PolicyRule
from tiphys.apiserver.authz.union import AlwaysAllow, AlwaysDeny, PrivilegedGroups, UnionAuthorizer
from tiphys.apiserver.authz.webhook import WebhookAuthorizer
from tiphys.apiserver.bootstrap.flow_status import FlowSchemaStatus
from tiphys.apiserver.bootstrap.policy import RBAC as RBAC_GROUP
from tiphys.apiserver.bootstrap.policy import bootstrap_objects
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.configfile import ConfigError
from tiphys.apiserver.crd.controller import CustomResources
from tiphys.apiserver.endpoints.negotiation import JSON, check_offered
from tiphys.apiserver.endpoints.paths import PathHandler
from tiphys.apiserver.flowcontrol.config import FlowControl
from tiphys.apiserver.flowcontrol.debug import handlers as debug_pages
from tiphys.apiserver.flowcontrol.gate import FairGate, MaxInFlight
from tiphys.apiserver.flowcontrol.keeper import FlowKeeper
from tiphys.apiserver.flowcontrol.metrics import exposition
from tiphys.apiserver.flowcontrol.width import Estimator
from tiphys.apiserver.http.egress import Egress
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap
from tiphys.apiserver.reload import ConfigController, FileReloader, Watch
from tiphys.apiserver.reviews import Reviews
from tiphys.apiserver.server import ApiServer, Security
from tiphys.apiserver.watchcache.kind import KindCache
from tiphys.base.clock import Clock, SystemClock
from tiphys.base.metrics import REGISTRY
from tiphys.store import Store

KEY_SET: Final = "/openid/v1/jwks"
KEY_SET_FORM: Final = "application/jwk-set+json"
DISCOVERY: Final = "/.well-known/openid-configuration"


def secured_server(options: ServerOptions, *, store: Store | None = None, clock: Clock | None = None) -> SecuredServer:
    """An API server with everything its options ask for. Raises ValueError for options that cannot be."""
    check_flow_control(options)
    moment = clock or SystemClock()
    resources = ResourceMap()
    reader = CacheReader(resources)

    def lookup(group: str, resource: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        return reader.get(group, resource, (namespace, name))

    issuer = None
    if options.service_account_key is not None:
        issuer = TokenIssuer(load_private_key(options.service_account_key), options.service_account_issuer, moment)
    audiences = options.api_audiences or (options.service_account_issuer,)
    keys = [key for path in options.service_account_keys for key in load_public_keys(path)]
    if issuer is not None:
        keys.insert(0, issuer.public_key)
    _check_token_life(options.max_token_seconds)
    tokens: list[TokenAuthenticator] = []
    if options.token_file is not None:
        tokens.append(StaticTokens.from_file(options.token_file))
    if keys:
        issuers = (options.service_account_issuer, *options.service_account_issuers)
        accounts = ServiceAccountTokens(keys, issuers, audiences, lookup, moment)
        tokens.append(accounts)
    if options.bootstrap_tokens:
        tokens.append(BootstrapTokens(lookup, moment))
    others = outside(options, moment)
    chain = TokenChain([*tokens, *others.tokens])
    rbac = _rbac(resources, reader)
    configured = authorizers(options)
    asked = [
        WebhookAuthorizer(one.service, one.options, moment)
        for one in configured
        if one.service is not None and one.options is not None
    ]
    judges = UnionAuthorizer(_judges(configured, rbac, resources, reader, asked))
    authorizer = UnionAuthorizer([PrivilegedGroups(), judges])
    authorities = authorities_of(options)
    webhooks = HttpsCaller(reader, Egress(options.node_network_namespaces))
    parts = AdmissionParts(
        reader=reader,
        authorizer=authorizer,
        rules=rbac,
        statuses=Writer(resources, reader, moment.now),
        webhooks=webhooks,
        versions=ServedVersions(resources),
        configuration=load_admission(options.admission_configuration) if options.admission_configuration else {},
        monotonic=moment.monotonic,
        clock=moment,
    )
    admission = admission_chain(parts, options.enable_admission, options.disable_admission)
    security = Security(
        authenticator=authenticator(options, chain, others, moment, authorities),
        authorizer=authorizer,
        admission=admission,
    )
    server = SecuredServer(options, security, store=store, clock=moment, resources=resources, webhooks=webhooks)
    server.closing += parts.closing
    server.closing += [
        one.close for one in (*others.tokens, *asked) if isinstance(one, WebhookTokens | WebhookAuthorizer)
    ]
    _watch_authentication(server, chain, tokens, others)
    _watch_authorization(server, judges, [one.type for one in configured], rbac)
    _watch_certificates(server, authorities)
    server.auditor = auditor(options.audit, moment)
    server.extra_resources.update(
        Reviews(
            chain,
            authorizer,
            judges,
            issuer,
            audiences,
            max_lifetime=options.max_token_seconds,
            extends=options.extend_tokens,
        ).handlers()
    )
    if issuer is not None:
        server.extra_paths.update(_issuer_discovery(issuer, keys))
    return server


def _watch_authentication(
    server: SecuredServer, chain: TokenChain, tokens: Sequence[TokenAuthenticator], others: Outside
) -> None:
    path, options = server.options.access.authentication_config, server.options
    if path is None:
        return

    def apply(data: bytes) -> None:
        found = authentication_from(data, path, options.service_account_issuer)
        known = others.configured
        if (found.anonymous, found.anonymous_paths) != (known.anonymous, known.anonymous_paths):
            raise ConfigError("anonymous: Forbidden: changed from initial configuration file")
        webhook = [] if others.webhook is None else [others.webhook]
        chain.replace([*tokens, *issuers_of(found, server.clock), *webhook])

    server.watch_config(ConfigController("authentication", path, apply, server.clock))


def _watch_authorization(
    server: SecuredServer, judges: UnionAuthorizer, types: Sequence[str], rbac: RBACAuthorizer
) -> None:
    path = server.options.access.authorization_config
    if path is None:
        return

    def apply(data: bytes) -> None:
        configured = authorization_from(data, types)
        asked = [
            WebhookAuthorizer(one.service, one.options, server.clock)
            for one in configured
            if one.service is not None and one.options is not None
        ]
        judges.replace(_judges(configured, rbac, server.resources, server.reader, asked))
        # Those that were asked until now may have questions under way: they are closed with the server.
        server.closing += [one.close for one in asked]

    server.watch_config(ConfigController("authorization", path, apply, server.clock))


def _watch_certificates(server: SecuredServer, authorities: Mapping[Path, Issuers]) -> None:
    options = server.options
    files = (options.tls_certificate, options.tls_key, options.client_ca, options.requestheader_ca)
    paths = [path for path in files if path is not None]
    if options.tls_certificate is None or options.tls_key is None:
        return

    def changed(contents: list[bytes]) -> None:
        if server.tls is not None:
            server.tls.reload()
        for path, data in zip(paths, contents, strict=True):
            if path in authorities:
                authorities[path].replace(data)

    server.watches.append(Watch("serving certificate and client authorities", paths, changed))


def _check_token_life(seconds: int) -> None:
    """Raises ValueError, in upstream's words, for a longest life of tokens that cannot be."""
    if seconds and not 3600 <= seconds <= 1 << 32:
        raise ValueError("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds")


def check_flow_control(options: ServerOptions) -> None:
    """Raises ValueError, in upstream's words, for limits that cannot be."""
    limits = {
        "--max-requests-inflight": options.max_requests_in_flight,
        "--max-mutating-requests-inflight": options.max_mutating_requests_in_flight,
    }
    negative = [f"{flag} can not be negative value" for flag, limit in limits.items() if limit < 0]
    if negative:
        raise ValueError(negative[0] if len(negative) == 1 else f"[{', '.join(negative)}]")
    if options.priority_and_fairness and not sum(limits.values()):
        raise ValueError(
            "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to "
            "something positive"
        )


class SecuredServer(ApiServer):
    """An API server that also looks after the objects it made."""

    def __init__(
        self,
        options: ServerOptions,
        security: Security,
        *,
        store: Store | None,
        clock: Clock,
        resources: ResourceMap,
        webhooks: HttpsCaller,
    ) -> None:
        super().__init__(options, security, store=store, clock=clock, resources=resources)
        self._flow_status: FlowSchemaStatus | None = None
        self._webhooks = webhooks
        self._custom: CustomResources | None = None
        self._flow_keeper: FlowKeeper | None = None
        self._no_metrics: Callable[[], None] | None = None
        # Ends connections to services outside.
        self.closing: list[Callable[[], Awaitable[None]]] = []
        self.watches: list[Watch] = []
        self._controllers: list[ConfigController] = []
        self._reloader: FileReloader | None = None

    def watch_config(self, controller: ConfigController) -> None:
        """Follow a configuration file, and show its metrics."""
        self._controllers.append(controller)
        self.watches.append(controller.watch)

    def _transport(self) -> Transport:
        options = self.options
        certificate = ProxyCertificate(options.proxy_client_certificate, options.proxy_client_key)
        return Transport(self.reader, Egress(options.node_network_namespaces), certificate)

    async def listen(self) -> None:
        """As ApiServer; custom resources and other servers are served, requests treated by flow schemas."""
        await self._control_flow()
        self._custom = CustomResources(
            self.resources, self.reader, self.cache, self.clock, self.extra_resources, self._webhooks
        )
        await self._custom.start()
        self.custom_definitions = self._custom.openapi
        self.aggregator = Aggregator(self.resources, self.reader, self.cache, self.clock, self._transport())
        await self.aggregator.start()
        await super().listen()
        writer = Writer(self.resources, self.reader, self.clock.now)
        self._flow_status = FlowSchemaStatus(self.cache, self.reader, writer, self.clock)
        await self._flow_status.start()
        if self.watches:
            self._reloader = FileReloader(self.watches, self.clock)
            await self._reloader.start()

    async def stop(self) -> None:
        """As ApiServer."""
        if self._reloader is not None:
            await self._reloader.stop()
            self._reloader = None
        while self._controllers:
            self._controllers.pop().forget()
        if self._no_metrics is not None:
            self._no_metrics()
            self._no_metrics = None
        if self._flow_keeper is not None:
            await self._flow_keeper.stop()
            self._flow_keeper = None
        if self._flow_status is not None:
            await self._flow_status.stop()
            self._flow_status = None
        if self.aggregator is not None:
            await self.aggregator.stop()
            self.aggregator = None
        if self._custom is not None:
            await self._custom.stop()
            self._custom = None
        await super().stop()
        await self._webhooks.close()
        while self.closing:
            await self.closing.pop()()

    async def _control_flow(self) -> None:
        options = self.options
        reads, writes = options.max_requests_in_flight, options.max_mutating_requests_in_flight
        if not options.priority_and_fairness:
            self.gate = MaxInFlight(reads, writes)
            return
        now = self.clock.monotonic
        control = FlowControl(reads + writes, now)
        self.gate = FairGate(control, Estimator(self._objects, self._watchers), now)
        self.extra_paths.update(debug_pages(control, self.clock))
        self._flow_keeper = FlowKeeper(control, self.cache, self.reader, self.clock)
        await self._flow_keeper.start()
        self._no_metrics = REGISTRY.collector(lambda: exposition(control))

    def _objects(self, group: str, resource: str, namespace: str) -> int:
        kind = self.cache.kind(group, resource)
        if kind is None:
            return 0
        low, high = kind.cache.span(namespace)
        return high - low

    def _watchers(self, group: str, resource: str) -> int:
        kind = self.cache.kind(group, resource)
        return 0 if kind is None else kind.watchers.count


def _rbac(resources: ResourceMap, reader: CacheReader) -> RBACAuthorizer:
    caches: list[KindCache] = []

    def versions() -> tuple[object, ...]:
        if not caches:
            stores = [resources.store(RBAC_GROUP, plural) for plural in KINDS.values()]
            caches.extend(store.kind.cache for store in stores if store is not None)
        return tuple([cache.last_change for cache in caches])

    return RBACAuthorizer(lambda plural: reader.list(RBAC_GROUP, plural), versions)


class Judge(Authorizer, Resolver, Protocol):
    """What every authorizer of the list is."""


def _judges(
    configured: Sequence[Configured],
    rbac: RBACAuthorizer,
    resources: ResourceMap,
    reader: CacheReader,
    asked: Sequence[Judge],
) -> list[Judge]:
    outsiders = iter(asked)
    found: list[Judge] = []
    for one in configured:
        match one.type:
            case "RBAC":
                found.append(rbac)
            case "Node":
                found.append(_node_authorizer(resources, reader))
            case "AlwaysAllow":
                found.append(AlwaysAllow())
            case "AlwaysDeny":
                found.append(AlwaysDeny())
            case "ABAC":
                assert one.abac is not None, "read before"
                found.append(one.abac)
            case "Webhook":
                found.append(next(outsiders))
    return found


def _node_authorizer(resources: ResourceMap, reader: CacheReader) -> NodeAuthorizer:
    def pods() -> KindCache | None:
        store = resources.store("", "pods")
        return None if store is None else store.kind.cache

    role = next(item for item in bootstrap_objects() if item["metadata"]["name"] == "system:node" and "rules" in item)
    rules = [PolicyRule.from_json(rule) for rule in role["rules"]]

    def get(group: str, resource: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        return reader.get(group, resource, (namespace, name))

    return NodeAuthorizer(PodIndex(pods), get, rules)


def _issuer_discovery(issuer: TokenIssuer, public: Sequence[PublicKey]) -> dict[str, PathHandler]:
    """The two documents by which others can check our tokens. OpenID Connect Discovery 1.0."""
    configuration = {
        "issuer": issuer.issuer,
        "jwks_uri": f"{issuer.issuer}{KEY_SET}",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": sorted(set(map(_algorithm, public))),
    }
    shown = {key_id(key): json_web_key(key) for key in public}
    keys = {"keys": list(shown.values())}

    async def discovery(request: Request) -> Response:
        check_offered(request.headers.get("accept", ""), [JSON])
        return Response(200, orjson.dumps(configuration), content_type=JSON, headers=_CACHED)

    async def key_set(request: Request) -> Response:
        check_offered(request.headers.get("accept", ""), [KEY_SET_FORM])
        return Response(200, orjson.dumps(keys), content_type=KEY_SET_FORM, headers=_CACHED)

    return {DISCOVERY: discovery, KEY_SET: key_set}


_CACHED: Final = (("Cache-Control", "public, max-age=3600"),)


def _algorithm(key: PublicKey) -> str:
    return "ES256" if isinstance(key, ec.EllipticCurvePublicKey) else "RS256"


def json_web_key(key: PublicKey) -> dict[str, str]:
    """A public key as RFC 7517 writes it."""
    found = {"use": "sig", "kid": key_id(key), "alg": _algorithm(key)}
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        x, y = (number.to_bytes(32, "big") for number in (numbers.x, numbers.y))
        return {**found, "kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)}
    public = key.public_numbers()
    modulus = public.n.to_bytes((public.n.bit_length() + 7) // 8, "big")
    return {**found, "kty": "RSA", "n": base64url(modulus), "e": base64url(public.e.to_bytes(3, "big").lstrip(b"\0"))}
