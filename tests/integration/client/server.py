"""A real API server in this process, over plain HTTP, that lets everyone do everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tiphys.apiserver.authn.interface import Credentials, UserInfo
from tiphys.apiserver.authz.interface import Attributes, Decision, Verdict
from tiphys.apiserver.options import ServerOptions
from tiphys.apiserver.server import ApiServer, Security
from tiphys.client import RestConfig


class Everyone:
    async def authenticate(self, request: Credentials) -> UserInfo | None:
        return UserInfo("admin", groups=("system:masters",))

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision(Verdict.ALLOW)


@asynccontextmanager
async def api_server() -> AsyncIterator[RestConfig]:
    everyone = Everyone()
    server = ApiServer(ServerOptions(port=0), Security(authenticator=everyone, authorizer=everyone))
    ((host, port),) = await server.start()
    try:
        yield RestConfig(server=f"http://{host}:{port}")
    finally:
        await server.stop()
