"""A real HTTPS service in this process: what webhooks and identity providers are, seen from the server."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tiphys.apiserver.pki import Authority

Answer = Callable[["Service", web.Request, Any], Awaitable[web.Response]]


@dataclass
class Service:
    """Where it is, and what it was asked: (path, headers, decoded body)."""

    url: str
    authority: Authority
    directory: Path
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    @property
    def ca_file(self) -> Path:
        return self.directory / "service-ca.crt"

    def kubeconfig(self, path: str = "", token: str = "") -> Path:
        """A kubeconfig that leads to it."""
        file = self.directory / f"service{path.replace('/', '-')}.kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": self.url + path, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": "u", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file.write_text(yaml.safe_dump(document))
        return file


@asynccontextmanager
async def https_service(directory: Path, answer: Answer) -> AsyncIterator[Service]:
    """`answer` is given the service, the request and its decoded body."""
    authority = Authority.create("service-ca")
    pair = authority.server("service", ["127.0.0.1", "localhost"])
    (directory / "service-ca.crt").write_bytes(authority.pem)
    (directory / "service.crt").write_bytes(pair.certificate)
    (directory / "service.key").write_bytes(pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "service.crt", directory / "service.key")
    service = Service("", authority, directory)

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        found = json.loads(body) if body else None
        service.asked.append((request.path, {key.lower(): value for key, value in request.headers.items()}, found))
        return await answer(service, request, found)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server: Any = site._server
    service.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        await runner.cleanup()
