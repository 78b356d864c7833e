"""A server with everything that is between a request and an object: TLS, authentication, authorization, admission."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.apiserver.server import Api
from tiphys.apiserver.bootstrap.reconcile import ClusterFacts, reconcile
from tiphys.apiserver.bootstrap.writer import Writer
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.pki import Authority
from tiphys.apiserver.security import secured_server
from tiphys.apiserver.server import ApiServer


class Cluster:
    """A server with the objects every cluster has, and clients of it."""

    api: Api  # root, of system:masters

    def __init__(self, url: str, authority: Authority, directory: Path, server: ApiServer) -> None:
        self.url = url
        self.authority = authority
        self.directory = directory
        self.server = server

    def context(self, name: str = "", *groups: str) -> ssl.SSLContext:
        """A client's TLS: with a certificate for `name`, if there is one."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if name:
            pair = self.authority.client(name, groups)
            files = self.directory / "client.crt", self.directory / "client.key"
            for file, data in zip(files, (pair.certificate, pair.key), strict=True):
                file.write_bytes(data)
            context.load_cert_chain(*files)
        return context

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str = "", context: ssl.SSLContext | None = None
    ) -> tuple[int, Any]:
        """One request as somebody else, on a connection of its own."""
        status, _, answer = await self.asked(method, path, body, token=token, context=context)
        return status, json.loads(answer)

    async def asked(
        self, method: str, path: str, body: Any = None, *, token: str = "", context: ssl.SSLContext | None = None
    ) -> tuple[int, Any, bytes]:
        """As `ask`; also the headers, and the answer as it came."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=context or self.context())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self.url + path, json=body, headers=headers) as answer,
        ):
            return answer.status, answer.headers, await answer.read()


@asynccontextmanager
async def secured_cluster(
    tmp_path: Path, prepare: Callable[[ApiServer], None] | None = None, **options: Any
) -> AsyncIterator[Cluster]:
    """The cluster; `prepare` is given the server before it starts, `options` go to ServerOptions."""
    authority = Authority.create("ca")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "ca.key").write_bytes(authority.private_pem)
    pair = authority.server("apiserver", ["127.0.0.1"])
    (tmp_path / "server.crt").write_bytes(pair.certificate)
    (tmp_path / "server.key").write_bytes(pair.key)
    (tmp_path / "tokens.csv").write_text("alice-token,alice,1,devs\n")
    known: dict[str, Any] = {
        "port": 0,
        "tls_certificate": tmp_path / "server.crt",
        "tls_key": tmp_path / "server.key",
        "client_ca": tmp_path / "ca.crt",
        "service_account_key": tmp_path / "server.key",
        "token_file": tmp_path / "tokens.csv",
        "enable_admission": ("NodeRestriction",),
    }
    server = secured_server(ServerOptions(**{**known, **options}))
    if prepare is not None:
        prepare(server)
    await server.load()
    facts = ClusterFacts(
        service_cidr="10.96.0.0/16", service_address="10.96.0.1", advertise_address="192.0.2.1", port=443
    )
    await reconcile(Writer(server.resources, server.reader, server.clock.now), facts, server.clock.now)
    await server.listen()
    ((host, port),) = server.addresses
    url = f"https://{host}:{port}"
    found = Cluster(url, authority, tmp_path, server)
    connector = aiohttp.TCPConnector(ssl=found.context("root", "system:masters"))
    try:
        async with aiohttp.ClientSession(url, connector=connector) as session:
            found.api = Api(server, session, url)
            await found.api.post("/api/v1/namespaces", {"metadata": {"name": "d"}})
            await found.api.post("/api/v1/namespaces/d/serviceaccounts", {"metadata": {"name": "default"}})
            yield found
    finally:
        await server.stop()
