"""What a KMS plug-in is asked, and what it may answer. The plug-in is a gRPC service at a unix socket.

https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/#kms-v2
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from tiphys.api.kms import kms_pb2, kms_pb2_grpc
from tiphys.apiserver.configfile import SUBDOMAIN
from tiphys.apiserver.encryption.configuration import KeyService
from tiphys.apiserver.encryption.transformer import ServiceUnavailable, TransformError

VERSIONS: Final = ("v2", "v2beta1")
UNAVAILABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# A service that was away is found soon after it is back.
CHANNEL_OPTIONS: Final = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2_000))
HEALTHY: Final = "ok"
MAX_BYTES: Final = 1 << 10  # of a key's name, and of a sealed key
MAX_ANNOTATIONS: Final = 32 << 10  # bytes, names and values together


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key as the service sealed it: stored with every value it was used for."""

    key_id: str
    sealed: bytes
    annotations: dict[str, bytes] = field(default_factory=dict, hash=False)


class KeyClient:
    """Calls of one plug-in. Each raises TransformError when it fails or answers what it may not."""

    def __init__(self, service: KeyService) -> None:
        self._name = service.name
        self._target = service.endpoint
        self._timeout = service.timeout.total_seconds()
        self._channel: Any = None
        self._blocking: Any = None

    async def status(self) -> str:
        """The name of the key the service seals with now."""
        answer = await self._call("Status", kms_pb2.StatusRequest())
        if answer.version not in VERSIONS:
            raise TransformError(f"expected KMSv2 API version v2, got {answer.version}")
        if answer.healthz != HEALTHY:
            raise TransformError(f"expected KMSv2 healthz ok, got {answer.healthz}")
        check_key_id(answer.key_id)
        return str(answer.key_id)

    async def seal(self, key: bytes) -> SealedKey:
        """A key, sealed."""
        answer = await self._call("Encrypt", kms_pb2.EncryptRequest(plaintext=key, uid=str(uuid.uuid4())))
        check_key_id(answer.key_id)
        if not 0 < len(answer.ciphertext) <= MAX_BYTES:
            raise TransformError(
                f"the key service {self._name} answered a sealed key of {len(answer.ciphertext)} bytes"
            )
        annotations = dict(answer.annotations)
        size = sum(len(name) + len(value) for name, value in annotations.items())
        if size > MAX_ANNOTATIONS or not all("." in name and SUBDOMAIN.fullmatch(name) for name in annotations):
            raise TransformError(f"the key service {self._name} answered annotations that are not allowed")
        return SealedKey(answer.key_id, answer.ciphertext, annotations)

    async def open(self, key: SealedKey) -> bytes:
        """The key again."""
        return bytes((await self._call("Decrypt", self._decrypt(key))).plaintext)

    def open_now(self, key: SealedKey) -> bytes:
        """As `open`, while everything waits: for what cannot await, an event that is to be handed on in its turn."""
        if self._blocking is None:
            self._blocking = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        stub: Any = kms_pb2_grpc.KeyManagementServiceStub(self._blocking)
        try:
            return bytes(stub.Decrypt(self._decrypt(key), timeout=self._timeout).plaintext)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def _decrypt(self, key: SealedKey) -> kms_pb2.DecryptRequest:
        return kms_pb2.DecryptRequest(
            ciphertext=key.sealed, uid=str(uuid.uuid4()), key_id=key.key_id, annotations=key.annotations
        )

    async def _call(self, method: str, request: Any) -> Any:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        stub = kms_pb2_grpc.KeyManagementServiceStub(self._channel)
        try:
            return await getattr(stub, method)(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def _failed(self, error: Any) -> TransformError:
        kind = ServiceUnavailable if error.code() in UNAVAILABLE else TransformError
        return kind(f"rpc error: code = {_words(error.code())} desc = {error.details()}")

    async def close(self) -> None:
        """Let go of the socket."""
        if self._channel is not None:
            await self._channel.close()
        if self._blocking is not None:
            self._blocking.close()


def check_key_id(key_id: str) -> None:
    """Raises TransformError for a name of a key that may not be stored."""
    if not key_id:
        raise TransformError("keyID is empty")
    if len(key_id.encode()) > MAX_BYTES:
        raise TransformError(f"keyID is {len(key_id.encode())} bytes, which exceeds the max size of {MAX_BYTES}")


def _words(code: grpc.StatusCode) -> str:
    """A code as Go's gRPC writes it: DEADLINE_EXCEEDED is DeadlineExceeded."""
    return "".join(part.capitalize() for part in code.name.split("_"))
