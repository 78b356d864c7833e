"""A KMS plug-in (v2) for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tiphys.api.kms import kms_pb2, kms_pb2_grpc


class KeyServer(kms_pb2_grpc.KeyManagementServiceServicer):
    """A key service whose cipher turns bytes around; `asked` counts its calls."""

    def __init__(self) -> None:
        self.key_id = "one"
        self.health = "ok"
        self.asked: list[str] = []

    async def Status(self, request: Any, context: Any) -> kms_pb2.StatusResponse:
        return kms_pb2.StatusResponse(version="v2", healthz=self.health, key_id=self.key_id)

    async def Encrypt(self, request: Any, context: Any) -> kms_pb2.EncryptResponse:
        self.asked.append("encrypt")
        return kms_pb2.EncryptResponse(
            ciphertext=request.plaintext[::-1], key_id=self.key_id, annotations={"a.example.com": b"x"}
        )

    async def Decrypt(self, request: Any, context: Any) -> kms_pb2.DecryptResponse:
        assert dict(request.annotations) == {"a.example.com": b"x"}
        self.asked.append(f"decrypt {request.key_id}")
        return kms_pb2.DecryptResponse(plaintext=request.ciphertext[::-1])


@asynccontextmanager
async def key_service(endpoint: str) -> AsyncIterator[KeyServer]:
    """A service at a unix socket (`unix://PATH`), until the block ends."""
    server, service = grpc.aio.server(), KeyServer()
    kms_pb2_grpc.add_KeyManagementServiceServicer_to_server(service, server)
    server.add_insecure_port(endpoint)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)
