"""An extension API server for tests: real TLS, asks for the front proxy's certificate, remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tiphys.apiserver.pki import Authority

Object = dict[str, Any]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
VERBS = ["create", "delete", "get", "list", "watch"]


@dataclass
class Asked:
    """One request as it arrived; `proxy` is the common name of the client certificate."""

    method: str
    path: str
    headers: dict[str, str]
    proxy: str
    body: bytes


@dataclass
class Extension:
    """What the server serves, changeable while it runs, and what it was asked."""

    group: str = "wardle.example.com"
    versions: tuple[str, ...] = ("v1",)
    aggregated: bool = True  # whether it knows aggregated discovery
    healthy: bool = True
    port: int = 0
    asked: list[Asked] = field(default_factory=list)

    def about(self, text: str) -> list[Asked]:
        """The requests whose path has `text`."""
        return [one for one in self.asked if text in one.path]

    # --- documents --------------------------------------------------------------------------------
    def group_document(self) -> Object:
        listed = [{"groupVersion": f"{self.group}/{version}", "version": version} for version in self.versions]
        return {"name": self.group, "versions": listed, "preferredVersion": listed[0]}

    def resource_list(self, version: str) -> Object:
        flunder = {"name": "flunders", "singularName": "flunder", "namespaced": True, "kind": "Flunder", "verbs": VERBS}
        status = {"name": "flunders/status", "singularName": "", "namespaced": True, "kind": "Flunder"}
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{self.group}/{version}",
            "resources": [flunder, status | {"verbs": ["get"]}],
        }

    def aggregated_document(self) -> Object:
        resources = {
            version: [
                {
                    "resource": "flunders",
                    "responseKind": {"group": self.group, "version": version, "kind": "Flunder"},
                    "scope": "Namespaced",
                    "singularResource": "flunder",
                    "verbs": VERBS,
                    "shortNames": ["fl"],
                }
            ]
            for version in self.versions
        }
        versions = [{"version": one, "resources": listed, "freshness": "Current"} for one, listed in resources.items()]
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": "apidiscovery.k8s.io/v2",
            "metadata": {},
            "items": [{"metadata": {"name": self.group}, "versions": versions}],
        }

    def openapi(self, version: str) -> tuple[Object, Object]:
        """(paths, definitions) of a version, in the words of OpenAPI 2."""
        name = f"com.example.wardle.{version}.Flunder"
        kind = {"group": self.group, "version": version, "kind": "Flunder"}
        meta = {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
        definition = {
            "description": "A flunder.",
            "type": "object",
            "properties": {"kind": {"type": "string"}, "apiVersion": {"type": "string"}, "metadata": meta},
            "x-kubernetes-group-version-kind": [kind],
        }
        answer = {"200": {"description": "OK", "schema": {"$ref": f"#/definitions/{name}"}}}
        path = f"/apis/{self.group}/{version}/namespaces/{{namespace}}/flunders/{{name}}"
        operation = {"operationId": f"readFlunder{version}", "responses": answer, "x-kubernetes-action": "get"}
        own_meta = {"type": "object", "description": "Metadata.", "properties": {"name": {"type": "string"}}}
        return {path: {"get": operation}}, {
            name: definition,
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": own_meta,
        }

    # --- handlers ---------------------------------------------------------------------------------
    async def serve(self, request: web.Request) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert") or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        proxy = names[0] if names else ""
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        body = await request.read()
        self.asked.append(Asked(request.method, request.path_qs, headers, proxy, body))
        if not self.healthy:
            return web.Response(status=500, text="not well\n")
        return await self._answer(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path, prefix = request.path.rstrip("/"), f"/apis/{self.group}"
        if path == "/apis" and self.aggregated and "v=v2;" in request.headers.get("Accept", "") + ";":
            return self._json(self.aggregated_document(), AGGREGATED)
        if path == "/apis":
            return self._json({"kind": "APIGroupList", "apiVersion": "v1", "groups": [self.group_document()]})
        if path == prefix:
            return self._json({"kind": "APIGroup", "apiVersion": "v1"} | self.group_document())
        for version in self.versions:
            if path == f"{prefix}/{version}":
                return self._json(self.resource_list(version))
            if path == f"/openapi/v3{prefix}/{version}":
                return self._json(self._openapi_v3(version))
            if path.startswith(f"{prefix}/{version}/"):
                return await self._resource(request)
        if path == "/openapi/v2":
            return self._json(self._openapi_v2())
        if path == "/openapi/v3":
            listed = {
                f"apis/{self.group}/{one}": {"serverRelativeURL": f"/openapi/v3{prefix}/{one}?hash=AB{one}"}
                for one in self.versions
            }
            return self._json({"paths": listed})
        return web.Response(status=404, text="404 page not found\n")

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/ws"):
            return await self._socket(request)
        if request.query.get("watch"):
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            for number in range(3):
                await answer.write(json.dumps({"type": "ADDED", "object": {"number": number}}).encode() + b"\n")
                await asyncio.sleep(0.05)
            return answer
        if request.path.endswith("/slow"):
            await asyncio.sleep(30)
        if request.path.endswith("/moved"):
            return web.Response(status=302, headers={"Location": "https://elsewhere.example.com/"}, text="gone")
        last = self.asked[-1]
        return self._json({"kind": "Flunder", "path": last.path, "method": last.method, "body": last.body.decode()})

    @staticmethod
    async def _socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            if message.type == WSMsgType.TEXT:
                await answer.send_str(message.data.upper())
        return answer

    def _openapi_v2(self) -> Object:
        found: Object = {"swagger": "2.0", "info": {"title": "wardle", "version": "1"}, "paths": {}, "definitions": {}}
        for version in self.versions:
            paths, definitions = self.openapi(version)
            found["paths"] |= paths
            found["definitions"] |= definitions
        return found

    def _openapi_v3(self, version: str) -> Object:
        paths, definitions = self.openapi(version)
        found = {"openapi": "3.0.0", "info": {"title": "wardle", "version": "1"}, "paths": paths}
        return found | {"components": {"schemas": definitions}}

    @staticmethod
    def _json(document: Object, content_type: str = "application/json") -> web.Response:
        headers = {"Content-Type": content_type, "Etag": f'"{abs(hash(json.dumps(document)))}"'}
        return web.Response(body=json.dumps(document).encode() + b"\n", headers=headers)


@asynccontextmanager
async def extension_server(
    extension: Extension, authority: Authority, names: list[str], directory: Path, *, host: str = "127.0.0.1"
) -> AsyncIterator[Extension]:
    """Serve `extension` with a certificate of `authority` for `names`, until the block ends."""
    pair = authority.server(names[0], names)
    files = directory / "extension.crt", directory / "extension.key"
    for file, data in zip(files, (pair.certificate, pair.key), strict=True):
        file.write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    front_proxy = directory / "front-proxy-ca.crt"
    if front_proxy.exists():
        context.load_verify_locations(front_proxy)
        context.verify_mode = ssl.CERT_OPTIONAL
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", extension.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, host, extension.port, ssl_context=context)
    await site.start()
    extension.port = runner.addresses[0][1]
    try:
        yield extension
    finally:
        await runner.cleanup()
