"""OpenAPI documents, built at the first request and then kept."""

from __future__ import annotations

from pathlib import Path

from tiphys.apiserver.discovery.documents import Discovery
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.resources import ResourceMap


class OpenApiService:
    def __init__(self, resources: ResourceMap, discovery: Discovery, directory: Path | None) -> None:
        self._resources = resources

    async def v2(self, request: Request) -> Response:
        return Response(404, b"")

    async def v3_index(self, request: Request) -> Response:
        return Response(404, b"")

    async def v3(self, request: Request, path: str) -> Response | None:
        return None
