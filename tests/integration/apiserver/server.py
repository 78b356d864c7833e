"""A real API server in this process over plain HTTP, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tiphys.apiserver.admission.interface import AdmissionChain
from tiphys.apiserver.authn.interface import Credentials, UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.server import ApiServer, Security
from tiphys.store import Store

Object = dict[str, Any]
CONFIG_MAPS = "/api/v1/namespaces/d/configmaps"
PODS = "/api/v1/namespaces/d/pods"


class Everyone:
    """Whoever asks is an administrator."""

    async def authenticate(self, request: Credentials) -> UserInfo | None:
        return UserInfo("admin", groups=("system:masters", "system:authenticated"))

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision(Verdict.ALLOW)


class Api:
    """Requests to a server; `last` is the answer's head."""

    def __init__(self, server: ApiServer, session: aiohttp.ClientSession, url: str) -> None:
        self.server = server
        self.url = url
        self.session = session
        self.status = 0
        self.headers: Any = {}

    async def raw(self, method: str, path: str, body: object = None, **headers: str) -> bytes:
        data = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        given = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with self.session.request(method, path, data=data, headers=given, allow_redirects=False) as answer:
            self.status, self.headers = answer.status, answer.headers
            return await answer.read()

    async def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        return json.loads(await self.raw(method, path, body, **headers))

    async def get(self, path: str, **headers: str) -> Any:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: object, **headers: str) -> Any:
        return await self.call("POST", path, body, **headers)

    async def put(self, path: str, body: object) -> Any:
        return await self.call("PUT", path, body)

    async def merge(self, path: str, body: object) -> Any:
        return await self.call("PATCH", path, body, Content_Type="application/merge-patch+json")

    async def apply(self, path: str, body: object, manager: str, *, force: bool = False) -> Any:
        query = f"?fieldManager={manager}&force={str(force).lower()}"
        return await self.call("PATCH", path + query, body, Content_Type="application/apply-patch+yaml")

    async def delete(self, path: str, body: object = None) -> Any:
        return await self.call("DELETE", path, body)

    async def events(self, path: str, count: int, **headers: str) -> list[Any]:
        """The first events of a watch; fewer when the server ends it."""
        found: list[Any] = []
        async with self.session.get(path, headers=headers) as answer:
            self.status = answer.status
            async for line in answer.content:
                found.append(json.loads(line))
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def api_server(
    store: Store | None = None, admission: AdmissionChain | None = None, state: str = "memory", **options: Any
) -> AsyncIterator[Api]:
    """A server on a free port, over an empty memory store unless an open one or a `state` to open is given."""
    everyone = Everyone()
    security = Security(authenticator=everyone, authorizer=everyone, admission=admission or AdmissionChain())
    server = ApiServer(ServerOptions(**{"port": 0, "store": state, **options}), security, store=store)
    ((host, port),) = await server.start()
    try:
        url = f"http://{host}:{port}"
        async with aiohttp.ClientSession(url) as session:
            yield Api(server, session, url)
    finally:
        await server.stop()


def config_map(name: str, data: dict[str, str] | None = None, **metadata: Any) -> Object:
    """A config map."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": data or {}}


def pod(name: str, **spec: Any) -> Object:
    """A pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "img"}], **spec},
    }


def state_directory(path: Path) -> str:
    """The store option for a directory."""
    return f"sqlite:{path}"
