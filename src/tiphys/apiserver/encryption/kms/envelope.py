"""Envelope encryption: the key service seals one seed, which makes a key for each value.

    seed (32 random bytes, as long as the service keeps its key) ── sealed by it ──▶ stored with each value
    info (32 random bytes a value) ── HKDF-Expand(seed, info) ──▶ the value's key
    value ── AES-GCM with it ──▶ encryptedData = info, nonce, ciphertext, tag

A restart, and a new key of the service, make a new seed. Seeds of others are opened by the service once and kept.
https://kubernetes.io/docs/tasks/administer-cluster/kms-provider/#kms-v2
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from google.protobuf.message import DecodeError

from tiphys.api.kms import kms_pb2
from tiphys.apiserver.encryption.aes import TOO_SHORT, AesGcm
from tiphys.apiserver.encryption.configuration import KeyService
from tiphys.apiserver.encryption.kms.service import KeyClient, SealedKey
from tiphys.apiserver.encryption.transformer import ServiceUnavailable, TransformError
from tiphys.base.log import get_logger

log = get_logger(__name__)

SEED_BYTES: Final = 32
INFO_BYTES: Final = 32
MAX_SEEDS: Final = 2_000  # kept; forgotten ones are opened again
HEALTHY_INTERVAL: Final = 60.0  # seconds between two questions for the service's key
UNHEALTHY_INTERVAL: Final = 10.0  # as long as it does not answer


class Envelope:
    """See `Transformer`, and the module. `problem` is why the service cannot be used; "" when it can."""

    def __init__(self, service: KeyService) -> None:
        self.problem = "the key service has not been asked yet"
        self._name = service.name
        self._prefix = f"k8s:enc:kms:v2:{service.name}:".encode()
        self._client = KeyClient(service)
        self._key_id = ""  # what the service seals with now
        self._seed: tuple[bytes, SealedKey] | None = None  # what values are sealed with
        self._seeds: dict[tuple[str, bytes], bytes] = {}
        self._polling: asyncio.Task[None] | None = None

    # The service's key

    async def start(self) -> None:
        """Ask the service for its key, and again and again. A service that does not answer is a `problem`, no error."""
        await self.refresh()
        self._polling = asyncio.create_task(self._poll(), name=f"kms-{self._name}")

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(UNHEALTHY_INTERVAL if self.problem else HEALTHY_INTERVAL)
            await self.refresh()

    async def refresh(self) -> None:
        try:
            self._key_id = await self._client.status()
            if self._seed is None or self._seed[1].key_id != self._key_id:
                await self._new_seed()
            self.problem = ""
        except TransformError as error:
            if str(error) != self.problem:
                log.error("the key service %s cannot be used: %s", self._name, error)
            self.problem = str(error)

    async def _new_seed(self) -> None:
        seed = os.urandom(SEED_BYTES)
        sealed = await self._client.seal(seed)
        if await self._client.open(sealed) != seed:
            raise TransformError("the key service does not give back the key it has sealed")
        self._seed = (seed, sealed)
        self._keep(sealed, seed)
        log.info("the key service %s seals with its key %s", self._name, sealed.key_id)

    async def close(self) -> None:
        """Ask no more."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
            self._polling = None
        await self._client.close()

    # Values

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Have the seeds of these values opened, as far as they are ours and not known."""
        wanted: dict[tuple[str, bytes], SealedKey] = {}
        for value in values:
            if value.startswith(self._prefix):
                try:
                    key = _sealed_key(_parse(value[len(self._prefix) :]))
                except TransformError:
                    continue  # `open` says what is wrong with it
                if (key.key_id, key.sealed) not in self._seeds:
                    wanted[key.key_id, key.sealed] = key
        for key in wanted.values():
            try:
                self._keep(key, await self._client.open(key))
            except ServiceUnavailable as error:
                self.problem = self.problem or str(error)
                return
            except TransformError as error:
                log.error("the key service %s does not open a key: %s", self._name, error)

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        found = _parse(stored)
        key = _sealed_key(found)
        seed = self._seeds.get((key.key_id, key.sealed))
        if seed is None:
            seed = self._open_seed(key)
        data = found.encryptedData
        stale = key.key_id != self._key_id
        if found.encryptedDEKSourceType == kms_pb2.AES_GCM_KEY:  # as versions before 1.28 wrote
            return AesGcm(seed).open(data, context)[0], True
        if len(data) < INFO_BYTES:
            raise TransformError(TOO_SHORT)
        return _cipher(seed, data[:INFO_BYTES]).open(data[INFO_BYTES:], context)[0], stale

    def _open_seed(self, key: SealedKey) -> bytes:
        try:
            if self.problem:  # everything waits for the answer, so a service that gives none is asked once
                raise ServiceUnavailable(self.problem)
            seed = self._client.open_now(key)
        except ServiceUnavailable as error:
            self.problem = self.problem or str(error)
            raise TransformError(f"failed to decrypt DEK, error: {error}") from None
        except TransformError as error:
            raise TransformError(f"failed to decrypt DEK, error: {error}") from None
        self._keep(key, seed)
        return seed

    def seal(self, value: bytes, context: bytes) -> bytes:
        if self._seed is None:
            raise TransformError(f"failed to encrypt DEK, error: {self.problem}")
        seed, sealed = self._seed
        info = os.urandom(INFO_BYTES)
        return kms_pb2.EncryptedObject(
            encryptedData=info + _cipher(seed, info).seal(value, context),
            keyID=sealed.key_id,
            encryptedDEKSource=sealed.sealed,
            annotations=sealed.annotations,
            encryptedDEKSourceType=kms_pb2.HKDF_SHA256_XNONCE_AES_GCM_SEED,
        ).SerializeToString()

    def _keep(self, key: SealedKey, seed: bytes) -> None:
        while len(self._seeds) >= MAX_SEEDS:
            del self._seeds[next(iter(self._seeds))]
        self._seeds[key.key_id, key.sealed] = seed


def _cipher(seed: bytes, info: bytes) -> AesGcm:
    return AesGcm(HKDFExpand(SHA256(), 32, info).derive(seed))


def _parse(stored: bytes) -> kms_pb2.EncryptedObject:
    try:
        found = kms_pb2.EncryptedObject.FromString(stored)
    except DecodeError as error:
        raise TransformError(f"failed to unmarshal {error}") from None
    if not (found.encryptedData and found.keyID and found.encryptedDEKSource):
        raise TransformError("the stored data has no key or no content")
    return found


def _sealed_key(found: kms_pb2.EncryptedObject) -> SealedKey:
    return SealedKey(found.keyID, found.encryptedDEKSource, dict(found.annotations))
