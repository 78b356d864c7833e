"""Values sealed with the help of a key service: what is stored, when it is asked, what happens when it is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from tiphys.api.kms import kms_pb2, kms_pb2_grpc
from tiphys.apiserver.encryption.configuration import KeyService
from tiphys.apiserver.encryption.kms.envelope import Envelope
from tiphys.apiserver.encryption.transformer import TransformError

PREFIX = b"k8s:enc:kms:v2:ks:"
CONTEXT = b"/registry/secrets/default/a"
VALUE = b'{"kind":"Secret"}'


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


@pytest.fixture
async def key_server(tmp_path: Path) -> AsyncIterator[tuple[KeyServer, KeyService]]:
    server, service = grpc.aio.server(), KeyServer()
    kms_pb2_grpc.add_KeyManagementServiceServicer_to_server(service, server)
    endpoint = f"unix://{tmp_path}/kms.sock"
    server.add_insecure_port(endpoint)
    await server.start()
    yield service, KeyService("ks", "v2", endpoint, timedelta(seconds=3))
    await server.stop(None)


async def test_one_seed_for_all_values(key_server: tuple[KeyServer, KeyService]) -> None:
    service, settings = key_server
    envelope = Envelope(settings)
    await envelope.start()
    stored = [envelope.seal(VALUE, CONTEXT) for _ in range(3)]
    assert [envelope.open(one, CONTEXT) for one in stored] == [(VALUE, False)] * 3
    assert service.asked == ["encrypt", "decrypt one"]  # the seed, and whether it comes back
    assert len({kms_pb2.EncryptedObject.FromString(one).encryptedData for one in stored}) == 3
    with pytest.raises(TransformError, match="message authentication failed"):
        envelope.open(stored[0], b"/registry/secrets/default/b")
    await envelope.close()


async def test_another_server_opens_them_with_one_question(key_server: tuple[KeyServer, KeyService]) -> None:
    service, settings = key_server
    first, second = Envelope(settings), Envelope(settings)
    await first.start()
    await second.start()
    stored = [first.seal(VALUE, CONTEXT) for _ in range(3)]
    service.asked.clear()
    await second.prepare(PREFIX + one for one in stored)
    assert [second.open(one, CONTEXT) for one in stored] == [(VALUE, False)] * 3
    assert service.asked == ["decrypt one"]
    await first.close()
    await second.close()


async def test_a_new_key_of_the_service_makes_values_stale(key_server: tuple[KeyServer, KeyService]) -> None:
    service, settings = key_server
    envelope = Envelope(settings)
    await envelope.start()
    before = envelope.seal(VALUE, CONTEXT)
    service.key_id = "two"
    await envelope._refresh()
    assert envelope.open(before, CONTEXT) == (VALUE, True)
    assert envelope.open(envelope.seal(VALUE, CONTEXT), CONTEXT) == (VALUE, False)
    await envelope.close()


async def test_an_ill_service_is_a_problem_until_it_is_well(key_server: tuple[KeyServer, KeyService]) -> None:
    service, settings = key_server
    service.health = "no"
    envelope = Envelope(settings)
    await envelope.start()
    assert envelope.problem == "expected KMSv2 healthz ok, got no"
    with pytest.raises(TransformError, match="failed to encrypt DEK"):
        envelope.seal(VALUE, CONTEXT)
    service.health = "ok"
    await envelope._refresh()
    assert envelope.problem == ""
    assert envelope.open(envelope.seal(VALUE, CONTEXT), CONTEXT) == (VALUE, False)
    await envelope.close()


async def test_no_service_at_all(tmp_path: Path) -> None:
    envelope = Envelope(KeyService("ks", "v2", f"unix://{tmp_path}/none.sock", timedelta(seconds=1)))
    await envelope.start()
    assert envelope.problem.startswith("rpc error: code = Unavailable")
    await envelope.close()


@pytest.mark.parametrize("stored", [b"", b"\xff", b"\x0a\x01a"])
def test_what_is_no_sealed_value(stored: bytes) -> None:
    envelope = Envelope(KeyService("ks", "v2", "unix:///nowhere", timedelta(seconds=1)))
    with pytest.raises(TransformError):
        envelope.open(stored, CONTEXT)
