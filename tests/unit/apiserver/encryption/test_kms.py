"""Values sealed with the help of a key service: what is stored, when it is asked, what happens when it is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.apiserver.key_service import KeyServer, key_service
from tiphys.api.kms import kms_pb2
from tiphys.apiserver.encryption.configuration import KeyService
from tiphys.apiserver.encryption.kms.envelope import Envelope
from tiphys.apiserver.encryption.transformer import TransformError

PREFIX = b"k8s:enc:kms:v2:ks:"
CONTEXT = b"/registry/secrets/default/a"
VALUE = b'{"kind":"Secret"}'


@pytest.fixture
async def key_server(tmp_path: Path) -> AsyncIterator[tuple[KeyServer, KeyService]]:
    endpoint = f"unix://{tmp_path}/kms.sock"
    async with key_service(endpoint) as service:
        yield service, KeyService("ks", "v2", endpoint, timedelta(seconds=3))


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
    await envelope.refresh()
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
    await envelope.refresh()
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
