"""Everything that is not a resource: discovery, OpenAPI, version, health, metrics, service-account issuer discovery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.discovery.documents import Discovery
from tiphys.apiserver.endpoints.encoding import encode_value, value_response
from tiphys.apiserver.endpoints.health import NOSNIFF, TEXT, Health
from tiphys.apiserver.endpoints.negotiation import (
    AS_IT_IS,
    DISCOVERY,
    JSON,
    Wanted,
    check_offered,
    negotiate,
    pretty_by_default,
)
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.endpoints.routes import no_such_method, no_such_resource
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, Response
from tiphys.base.metrics import REGISTRY
from tiphys.base.version import VERSION

EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
AGGREGATED: Final = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class OpenApi(Protocol):
    """The OpenAPI documents (see `openapi/`)."""

    async def v2(self, request: Request) -> Response:
        """/openapi/v2."""

    async def v3_index(self, request: Request) -> Response:
        """/openapi/v3."""

    async def v3(self, request: Request, path: str) -> Answer | None:
        """/openapi/v3/PATH; None when there is none."""


PathHandler = Callable[[Request], Awaitable[Response]]


def page_not_found() -> Response:
    """The 404 of paths that are no resource."""
    return Response(404, b"404 page not found\n", content_type=TEXT, headers=NOSNIFF)


class PathHandlers:
    """Answers requests for paths that are no resource. `extra` maps further exact paths to their handlers."""

    def __init__(
        self,
        discovery: Discovery,
        health: Health,
        openapi: OpenApi,
        server_address: Callable[[], str],
        extra: Mapping[str, PathHandler],
        before_metrics: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`before_metrics` is awaited before metrics are read."""
        self._before_metrics = before_metrics
        self._discovery = discovery
        self._health = health
        self._openapi = openapi
        self._server_address = server_address
        self._extra = extra

    async def serve(self, request: Request, info: RequestInfo) -> Answer:
        """Answer a request whose path names no resource."""
        path = info.path
        trimmed = path.rstrip("/") or "/"
        if trimmed in self._extra:
            _only_get(request)
            return await self._extra[trimmed](request)
        if self._health.handles(path):
            return await self._health.serve(request, path) or page_not_found()
        segments = trimmed.split("/")[1:]
        if trimmed in ("/", "/index.html"):
            return Response(200, orjson.dumps({"paths": self.index()}, option=orjson.OPT_INDENT_2))
        if trimmed == "/version":
            _only_get(request)
            check_offered(request.headers.get("accept", ""), [JSON])
            return Response(200, orjson.dumps(VERSION, option=orjson.OPT_INDENT_2))
        if path == "/metrics":
            if self._before_metrics is not None:
                await self._before_metrics()
            return Response(200, REGISTRY.expose(), content_type=EXPOSITION)
        if path == "/metrics/slis":
            return Response(200, self._health.registry.expose(), content_type=EXPOSITION)
        if segments[0] == "openapi":
            return await self._serve_openapi(request, path.split("/")[1:])
        if segments[0] in ("api", "apis"):
            return self._serve_discovery(request, segments)
        return page_not_found()

    async def _serve_openapi(self, request: Request, segments: list[str]) -> Answer:
        if segments == ["openapi", "v2"]:
            return await self._openapi.v2(request)
        if segments == ["openapi", "v3"]:
            return await self._openapi.v3_index(request)
        if segments[:2] == ["openapi", "v3"]:
            found = await self._openapi.v3(request, "/".join(segments[2:]))
            return found or Response(404, b"", content_type="")
        return page_not_found()

    def _serve_discovery(self, request: Request, segments: list[str]) -> Answer:
        discovery = self._discovery
        document: dict[str, Any] | None
        if segments in (["api"], ["apis"]):
            core = segments == ["api"]
            if core:
                _only_get(request)
            wanted = _form(request, listed=core, transforms=_AGGREGATION)
            if wanted.transform:
                return _aggregated(request, *discovery.aggregated(core=core), wanted)
            document = discovery.api_versions(self._server_address()) if core else discovery.group_list()
            return value_response(200, document, wanted)
        if segments[0] == "api":
            document = discovery.resource_list("", segments[1]) if len(segments) == 2 else None
        elif len(segments) == 2:
            document = discovery.group(segments[1])
        else:
            document = discovery.resource_list(segments[1], segments[2]) if len(segments) == 3 else None
        if document is not None:
            # A group is shown by the part of the server that knows of the others, a version by the one that serves it.
            listed = segments[0] == "api" or len(segments) == 3
            if listed:
                _only_get(request)
            return value_response(200, document, _form(request, listed=listed))
        return self._unknown(segments)

    def _unknown(self, segments: list[str]) -> Answer:
        if segments[0] == "apis" and (len(segments) < 3 or not self._discovery.serves_group(segments[1])):
            return page_not_found()
        raise no_such_resource()

    async def unserved(self, request: Request, info: RequestInfo) -> Answer:
        """A resource path nobody serves."""
        return self._unknown(info.path.strip("/").split("/"))

    def index(self) -> list[str]:
        """What `/` lists."""
        paths = {"/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"}
        for group, versions in self._discovery.groups():
            paths.add(f"/apis/{group}")
            paths.update(f"/apis/{group}/{version}" for version in versions)
        for endpoint in ("healthz", "livez", "readyz"):
            paths.add(f"/{endpoint}")
        paths.update(
            {"/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/version"}
        )
        return sorted(paths)


_AGGREGATION: Final = frozenset({DISCOVERY})


def _aggregated(request: Request, data: bytes, etag: str, wanted: Wanted) -> Response:
    """Everything in one document, which a client asks for with what it knows."""
    headers = [("Cache-Control", "public"), ("Etag", etag), ("Vary", "Accept")]
    if request.headers.get("if-none-match", "") == etag:
        return Response(304, b"", content_type="", headers=headers)
    if not wanted.plain_encoding:
        data = encode_value(orjson.loads(data), wanted.media_type, pretty=wanted.pretty)
    return Response(200, data, content_type=wanted.media_type + AGGREGATED, headers=headers)


def _form(request: Request, *, listed: bool, transforms: frozenset[str] = AS_IT_IS) -> Wanted:
    """How to answer. StatusError (406). `listed`: the path says which media types it has."""
    accept = request.headers.get("accept", "")
    if listed:
        check_offered(accept)
    wanted = negotiate(accept, transforms=transforms)
    pretty = request.parameter("pretty") if request.raw_query else ""
    return replace(wanted, pretty=pretty_by_default(request.headers.get("user-agent", ""), pretty) or wanted.pretty)


def _only_get(request: Request) -> None:
    if request.method != "GET":
        raise no_such_method()
