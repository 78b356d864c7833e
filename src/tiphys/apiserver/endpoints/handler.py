"""The handler chain: every request on its way in.

    audit id ─ request info ─ authentication ─ audit ─ impersonation ─ flow control ─ authorization
        └─ resource: verb table below
        └─ path: discovery, health, metrics …

Everything that goes wrong is a StatusError and is answered as a Status. The table `_VERBS` lists what can be done to a
stored resource; subresources are in `subresources.py`, resources that are not stored in `virtual.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.access_metrics import authenticated, judged, refused
from tiphys.apiserver.audit.auditor import Auditor
from tiphys.apiserver.audit.record import DECISION, REASON
from tiphys.apiserver.audit.stages import end_record, panicked, received, refuse_record
from tiphys.apiserver.authn.constrained import act_as
from tiphys.apiserver.authn.interface import Authenticator
from tiphys.apiserver.authz.interface import Attributes, Undecided, Verdict, settled
from tiphys.apiserver.authz.wording import forbidden_error
from tiphys.apiserver.endpoints.compression import compressed
from tiphys.apiserver.endpoints.context import ApiRequest, Services
from tiphys.apiserver.endpoints.deadlines import Deadlines
from tiphys.apiserver.endpoints.delete import delete_collection, delete_object
from tiphys.apiserver.endpoints.encoding import refusal
from tiphys.apiserver.endpoints.forms import form_for
from tiphys.apiserver.endpoints.list_options import ListOptions
from tiphys.apiserver.endpoints.negotiation import STREAM_TYPES, YAML, no_form
from tiphys.apiserver.endpoints.patch import patch_object
from tiphys.apiserver.endpoints.paths import PathHandlers
from tiphys.apiserver.endpoints.read import get_object, list_objects
from tiphys.apiserver.endpoints.request_info import RequestInfo, parse_request_info
from tiphys.apiserver.endpoints.routes import no_such_method, no_such_resource
from tiphys.apiserver.endpoints.subresources import CONNECT, serve_subresource
from tiphys.apiserver.endpoints.virtual import VIRTUAL_TABLES, check_virtual, serve_virtual
from tiphys.apiserver.endpoints.warning_headers import warning_headers
from tiphys.apiserver.endpoints.watch import watch_objects
from tiphys.apiserver.endpoints.write import create_object, update_object
from tiphys.apiserver.flowcontrol.gate import Gate, TooMany, is_long_running
from tiphys.apiserver.http.request import Place, Request
from tiphys.apiserver.http.response import Answer, Response, Stream, StreamResponse, Upgrade, status_response
from tiphys.apiserver.metrics import RequestMetrics
from tiphys.apiserver.registry.names import new_uid
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.machinery.errors import (
    StatusError,
    bad_request,
    service_unavailable,
    status_of,
    timeout,
    unauthorized,
)
from tiphys.machinery.time import parse_duration
from tiphys.store import StoreError

REQUEST_TIMEOUT: Final = 60.0  # seconds, upstream's --request-timeout
LATE: Final = "request did not complete within requested timeout - context deadline exceeded"


class Router(Protocol):
    """Knows what other servers answer for (see `aggregator/`)."""

    def route(self, path: str) -> Any:
        """What `serve` needs for a path of another server; None for one of ours."""

    async def serve(self, request: Request, info: RequestInfo, one: Any) -> Answer:
        """The other server's answer."""


class ApiHandler:
    """Answers every request of the server. Called by the HTTP layer."""

    def __init__(
        self,
        services: Services,
        authenticator: Authenticator,
        paths: PathHandlers,
        metrics: RequestMetrics,
        gate: Gate | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        """`gate`: None serves every request at once; `auditor`: None records nothing."""
        self._services = services
        self._authenticator = authenticator
        self._paths = paths
        self._metrics = metrics
        self._gate = gate
        self._auditor = auditor
        self._deadlines = Deadlines(REQUEST_TIMEOUT)
        self.ready = False
        self.router: Router | None = None

    async def __call__(self, request: Request) -> Answer:
        """Answer one request; never raises StatusError."""
        started = time.perf_counter()
        request.audit_id = request.headers.get("audit-id") or new_uid()
        info: RequestInfo | None = None
        try:
            info = _info_of(request)
            answer = await self._within_time(request, info)
        except StatusError as error:
            answer = refusal(error, request.headers.get("accept", ""))
        except TooMany as error:
            answer, request.place = error.response, None
            if info is not None:
                self._metrics.terminated(request, info, 429)
        except StoreError as error:
            # Not a fault of this server: the state cannot be had now. In etcd's words, as upstream passes them on.
            answer = status_response(StatusError(status_of(500, "", f"etcdserver: {error}")))
        except (RecursionError, orjson.JSONEncodeError) as error:
            # orjson writes 254 levels, and reads more; it has no error of its own for that.
            if not isinstance(error, RecursionError) and "Recursion" not in str(error):
                raise
            answer = status_response(bad_request("the document is nested too deeply"))
        except Exception as error:
            if request.audit is not None and self._auditor is not None:
                await panicked(self._auditor, request.audit, error, self._services.now())
            raise
        self._finish(request, answer)
        if info is not None:
            self._metrics.observe(request, info, answer, time.perf_counter() - started)
        if request.audit is not None and self._auditor is not None:
            await end_record(self._auditor, request.audit, answer, self._services.now)
        if isinstance(answer, Response) and answer.length > COMPRESS_FROM:
            return await compressed(request, answer)
        return answer

    def _finish(self, request: Request, answer: Answer) -> None:
        """The headers every answer has."""
        if isinstance(answer, Upgrade):
            return
        headers = [("Audit-Id", request.audit_id)]
        if not any(name == "Cache-Control" for name, _ in answer.headers):
            headers.append(("Cache-Control", "no-cache, private"))
        headers += answer.headers
        if request.place is not None:
            headers += request.place.headers
        if request.warnings:
            headers += warning_headers(request.warnings)
        answer.headers = headers

    async def _within_time(self, request: Request, info: RequestInfo) -> Answer:
        """Answer a request, or end it with 504 when that takes too long."""
        limit = time_limit(request, info)
        if limit is None:
            return await self._serve(request, info)
        if limit == REQUEST_TIMEOUT:
            try:
                return await self._deadlines.within(self._serve(request, info))
            except TimeoutError:
                raise self._late(request, info) from None
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                return await self._serve(request, info)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise self._late(request, info) from None

    def _late(self, request: Request, info: RequestInfo) -> StatusError:
        self._metrics.terminated(request, info, 504)
        return timeout(LATE)

    async def _serve(self, request: Request, info: RequestInfo) -> Answer:
        """Answer a request; a refusal that another server's write may have overtaken is judged again.

        Where servers share a store, each sees the others' writes a moment late: a namespace, a role or a version
        may be there that this one has not seen yet.
        """
        cache = self._services.cache
        try:
            return await self._judge(request, info)
        except StatusError as error:
            if not cache.shared or error.code not in MAYBE_STALE or error.reason == "AlreadyExists":
                raise
        await cache.wait_fresh()
        request.warnings.clear()
        return await self._judge(request, info)

    async def _judge(self, request: Request, info: RequestInfo) -> Answer:
        auditor = self._auditor
        began = time.perf_counter()
        try:
            user = await self._authenticator.authenticate(request)
            if user is None:
                raise unauthorized()
            authenticated(user.name, time.perf_counter() - began)
        except StatusError as error:
            refused(time.perf_counter() - began)
            if auditor is not None:
                await refuse_record(auditor, request, info, status_response(error), self._services.now())
            raise
        if auditor is not None and request.audit is None:
            request.audit = auditor.begin(request, info, user)
            if request.audit is not None:
                await received(auditor)
        headers = request.headers
        if "impersonate-user" in headers or "impersonate-group" in headers or "impersonate-uid" in headers:
            request.user = user
            asked, authorizer = _attributes(request, info), self._services.authorizer
            acting = await settled(lambda: act_as(asked.user, headers, authorizer, asked))
            if request.audit is not None:
                request.audit.impersonated, request.audit.constraint = acting
            user = acting[0]
        request.user = user
        if self._gate is None:
            return await self._serve_admitted(request, info)
        waiting = self._gate.enter(request, info)
        if waiting is not None:
            await waiting
        place = request.place
        if place is None:
            return await self._serve_admitted(request, info)
        return await self._serve_placed(request, info, place)

    async def _serve_placed(self, request: Request, info: RequestInfo, place: Place) -> Answer:
        kept = False
        try:
            answer = await self._serve_admitted(request, info)
            if isinstance(answer, StreamResponse):
                answer.run, kept = _leaving(answer.run, place), True
            return answer
        finally:
            if not kept:
                place.leave()

    async def _serve_admitted(self, request: Request, info: RequestInfo) -> Answer:
        attributes = _attributes(request, info)
        began = time.perf_counter()
        try:
            decision = self._services.authorizer.authorize(attributes)
        except Undecided:
            decision = await settled(lambda: self._services.authorizer.authorize(attributes))
        judged(_RESULTS[decision.verdict], time.perf_counter() - began)
        audit = request.audit
        if audit is not None:
            audit.authorized = decision.allowed
            audit.annotations[DECISION] = "allow" if decision.allowed else "forbid"
            audit.annotations[REASON] = decision.reason
        if not decision.allowed:
            raise forbidden_error(attributes, decision.reason)
        elsewhere = self.router.route(info.path) if self.router is not None else None
        if self.router is not None and elsewhere is not None:
            return await self.router.serve(request, info, elsewhere)
        if not info.is_resource:
            return await self._paths.serve(request, info)
        return await self._serve_resource(request, info)

    async def _serve_resource(self, request: Request, info: RequestInfo) -> Answer:
        if not self.ready and info.verb != "get":
            raise service_unavailable("the server is starting")
        resources = self._services.resources
        if info.verb == "proxy" or ("//" in info.path and info.subresource != "proxy"):
            raise no_such_resource()
        served = resources.find(info.api_group, info.api_version, info.resource)
        if served is None:
            virtual = resources.virtual(info.api_group, info.api_version, info.resource)
            if virtual is None:
                return await self._paths.unserved(request, info)
            check_virtual(virtual, info, request.method)
            if virtual.plural == "componentstatuses":
                self._metrics.deprecated(info)
            tables = virtual.plural in VIRTUAL_TABLES
            return await serve_virtual(ApiRequest(self._services, request, info, tables=tables), virtual)
        _check_scope(served, info)
        if request.method == "HEAD" and info.subresource not in CONNECT:
            raise no_such_method()
        deprecation = DEPRECATED.get((info.api_group, info.api_version, info.resource))
        if deprecation is not None:
            request.warnings.append(deprecation)
            self._metrics.deprecated(info)
            if request.audit is not None:
                request.audit.annotations["k8s.io/deprecated"] = "true"
        if served.warning:
            request.warnings.append(served.warning)
            self._metrics.deprecated(info)
        custom = served.schema is not None and served.schema.custom
        if info.subresource:
            api = ApiRequest(self._services, request, info, custom=custom)
            await self._services.cache.wait_fresh()
            return await serve_subresource(api, served)
        named = len(info.parts) > 1
        if info.verb not in served.resource.verbs or (info.verb in (NAMED if not named else UNNAMED)):
            raise no_such_method()
        api = ApiRequest(self._services, request, info, custom=custom)
        answer: Answer = await _VERBS[info.verb](api, served)
        return answer


# Verbs that need a name in the path, and verbs that cannot have one.
NAMED: Final = frozenset({"get", "update", "patch", "delete"})
UNNAMED: Final = frozenset({"create", "list", "deletecollection"})
# Only these are narrowed by selectors; elsewhere a selector in the query means nothing.
_SELECTING: Final = frozenset({"list", "watch", "deletecollection"})
# Whole resources that are on their way out.
DEPRECATED: Final = {
    ("", "v1", "endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
# Refusals that depend on objects.
MAYBE_STALE: Final = frozenset({401, 403, 404, 409, 422})
COMPRESS_FROM: Final = 128 * 1024


def _check_scope(served: ServedResource, info: RequestInfo) -> None:
    """Cluster resources have no namespace in their path; namespaced objects have one."""
    namespaced = served.resource.namespaced
    if info.resource == "namespaces" and not info.api_group:
        if info.namespace and not info.name:
            raise no_such_resource()
        info.namespace = info.name
        return
    if info.namespace and not namespaced:
        raise no_such_resource()
    if namespaced and not info.namespace:
        if info.parts[1:]:
            raise no_such_resource()
        if info.verb not in ("list", "watch"):
            raise no_such_method()


async def _get(api: ApiRequest, served: ServedResource) -> Answer:
    form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
    info = api.info
    version = api.parameter("resourceVersion")
    return await get_object(served, api.services.cache, form, info.namespace, info.name, version)


async def _list(api: ApiRequest, served: ServedResource) -> Answer:
    options = ListOptions.parse(api.query, watch=False)
    wanted = options.filter(served, _namespace(api, served))
    form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
    return await list_objects(served, api.services.cache, form, options, wanted)


async def _watch(api: ApiRequest, served: ServedResource) -> Answer:
    options = ListOptions.parse(api.query, watch=True)
    name = api.info.name if len(api.info.parts) > 1 else ""
    wanted = options.filter(served, _namespace(api, served), name)
    if api.wanted.media_type == YAML:
        raise no_form(STREAM_TYPES)
    form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
    await served.store.fresh()
    place = api.request.place
    begun = None if place is None else place.leave
    answer: StreamResponse = watch_objects(served, api.services.cache, form, options, wanted, begun=begun)
    return answer


def _namespace(api: ApiRequest, served: ServedResource) -> str:
    return api.info.namespace if served.resource.namespaced else ""


_VERBS: Final[Mapping[str, Callable[[ApiRequest, ServedResource], Awaitable[Any]]]] = {
    "get": _get,
    "list": _list,
    "watch": _watch,
    "create": create_object,
    "update": update_object,
    "patch": patch_object,
    "delete": delete_object,
    "deletecollection": delete_collection,
}


def _info_of(request: Request) -> RequestInfo:
    """What the request asks for. StatusError (400) when that cannot be read."""
    try:
        path = request.path
        if not path.startswith("/"):
            raise bad_request("malformed HTTP request: the target is no path")
        query: Mapping[str, list[str]] = request.query if request.raw_query else {}
    except (UnicodeDecodeError, ValueError):
        raise bad_request("the request path or query is not valid UTF-8") from None
    return parse_request_info(request.method, path, query)


_RESULTS: Final = {Verdict.ALLOW: "allowed", Verdict.DENY: "denied", Verdict.NO_OPINION: "no-opinion"}


def time_limit(request: Request, info: RequestInfo) -> float | None:
    """Seconds a request may take; None for those that last, and for reads that say nothing.

    Reads are answered from memory: their own waiting for the store ends by itself. StatusError (400).
    """
    text = request.parameter("timeout") if request.raw_query and info.is_resource else ""
    if not text:
        return None if request.method in ("GET", "HEAD") or is_long_running(info) else REQUEST_TIMEOUT
    if is_long_running(info):
        return None
    try:
        given = parse_duration(text).total_seconds()
    except (ValueError, OverflowError) as error:
        raise bad_request(f"invalid timeout specified in the request URL - {error}") from None
    return min(given, REQUEST_TIMEOUT) if given > 0 else REQUEST_TIMEOUT


def _attributes(request: Request, info: RequestInfo) -> Attributes:
    selects = bool(request.raw_query) and info.verb in _SELECTING
    return Attributes(
        user=request.user,
        verb=info.verb,
        resource_request=info.is_resource,
        path=info.path,
        api_group=info.api_group,
        api_version=info.api_version,
        namespace=info.namespace,
        resource=info.resource,
        subresource=info.subresource,
        name=info.name,
        field_selector=request.parameter("fieldSelector") if selects else "",
        label_selector=request.parameter("labelSelector") if selects else "",
    )


def _leaving(run: Callable[[Stream], Awaitable[None]], place: Place) -> Callable[[Stream], Awaitable[None]]:
    """`run`, after which the request has left its place for certain."""

    async def leaving(stream: Stream) -> None:
        try:
            await run(stream)
        finally:
            place.leave()

    return leaving
