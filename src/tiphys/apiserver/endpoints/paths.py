"""Everything that is not a resource: discovery, OpenAPI, version, health, metrics, service-account issuer discovery."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.discovery.documents import Discovery
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.endpoints.health import TEXT, Health
from tiphys.apiserver.endpoints.negotiation import MEDIA_TYPES, Wanted, negotiate, pretty_by_default
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, Response
from tiphys.base.metrics import REGISTRY
from tiphys.machinery.errors import StatusError, not_acceptable, status_of

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
GIT_VERSION: Final = "v1.36.2"
GIT_COMMIT: Final = "1f3ad0bf1c0fdf3f4c4b6f26f7d1ce1df4a1d36f"

VERSION: Final[dict[str, str]] = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": GIT_VERSION,
    "gitCommit": GIT_COMMIT,
    "gitTreeState": "clean",
    "buildDate": "2026-06-09T00:00:00Z",
    "goVersion": f"python{platform.python_version()}",
    "compiler": platform.python_implementation().lower(),
    "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
}


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
    return Response(404, b"404 page not found\n", content_type=TEXT, headers=[("X-Content-Type-Options", "nosniff")])


class PathHandlers:
    """Answers requests for paths that are no resource. `extra` maps further exact paths to their handlers."""

    def __init__(
        self,
        discovery: Discovery,
        health: Health,
        openapi: OpenApi,
        server_address: Callable[[], str],
        extra: Mapping[str, PathHandler],
    ) -> None:
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
            return await self._extra[trimmed](request)
        if self._health.handles(path):
            return await self._health.serve(request, path.rstrip("/")) or page_not_found()
        segments = trimmed.split("/")[1:]
        if trimmed == "/":
            return _value(request, {"paths": self.index()})
        if trimmed == "/version":
            _only_get(request)
            return Response(200, orjson.dumps(VERSION, option=orjson.OPT_INDENT_2))
        if trimmed == "/metrics":
            _only_get(request)
            return Response(
                200, REGISTRY.expose(), content_type="text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
            )
        if segments[0] == "openapi":
            return await self._serve_openapi(request, segments)
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
            _only_get(request)
            core = segments == ["api"]
            wanted = _aggregation(request)
            if wanted is None:
                document = discovery.api_versions(self._server_address()) if core else discovery.group_list()
                return _value(request, document)
            data, etag = discovery.aggregated(core=core)
            headers = [("Etag", etag), ("Vary", "Accept")]
            if request.headers.get("if-none-match", "") == etag:
                return Response(304, b"", content_type="", headers=headers)
            return Response(200, data, content_type=AGGREGATED, headers=headers)
        if segments[0] == "api":
            document = discovery.resource_list("", segments[1]) if len(segments) == 2 else None
        elif len(segments) == 2:
            document = discovery.group(segments[1])
        else:
            document = discovery.resource_list(segments[1], segments[2]) if len(segments) == 3 else None
        if document is not None:
            _only_get(request)
            return _value(request, document)
        return self._unknown(segments)

    def _unknown(self, segments: list[str]) -> Answer:
        if segments[0] == "apis" and (len(segments) < 3 or not self._discovery.serves_group(segments[1])):
            return page_not_found()
        raise StatusError(
            status_of(404, "NotFound", "the server could not find the requested resource")
            | {"details": {}, "code": 404}
        )

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
        paths.update({"/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/openid/v1/jwks", "/version"})
        return sorted(paths)


def _aggregation(request: Request) -> Wanted | None:
    """Whether the Accept header asks for aggregated discovery before it asks for the plain documents."""
    accept = request.headers.get("accept", "")
    if "as=APIGroupDiscoveryList" not in accept:
        return None
    for clause in accept.split(","):
        parts = {part.strip() for part in clause.split(";")}
        if "application/json" not in parts and "*/*" not in parts:
            continue
        if "as=APIGroupDiscoveryList" not in parts:
            return None
        if "g=apidiscovery.k8s.io" in parts and "v=v2" in parts:
            return Wanted()
    raise not_acceptable(f"only the following media types are accepted: {', '.join(MEDIA_TYPES)}")


def _value(request: Request, document: dict[str, Any]) -> Response:
    accept = request.headers.get("accept", "")
    # Discovery clients send the aggregated form first and accept plain JSON: only that part matters here.
    plain = ",".join(clause for clause in accept.split(",") if "apidiscovery" not in clause)
    wanted = negotiate(plain)
    pretty = request.parameter("pretty") if request.raw_query else ""
    if pretty_by_default(request.headers.get("user-agent", ""), pretty):
        wanted = Wanted(wanted.media_type, pretty=True)
    return value_response(200, document, Wanted(wanted.media_type, pretty=wanted.pretty))


def _only_get(request: Request) -> None:
    if request.method not in ("GET", "HEAD"):
        message = "the server does not allow this method on the requested resource"
        raise StatusError(status_of(405, "MethodNotAllowed", message) | {"details": {}, "code": 405})
