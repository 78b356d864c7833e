"""aesgcm and aescbc: AES with a key of 16, 24 or 32 bytes.

    aesgcm   nonce (12, random) ─ ciphertext ─ tag (16)     additional data: the value's key in the store
    aescbc   IV (16, random) ─ ciphertext, padded by PKCS #7     authenticates nothing

A random nonce is safe for some 200,000 writes with one aesgcm key, which then has to be rotated (Kubernetes'
documentation says so, NIST SP 800-38D why); aescbc lets whoever can write the store probe for the padding.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from tiphys.apiserver.encryption.transformer import TransformError

NONCE_BYTES: Final = 12
BLOCK_BYTES: Final = 16
TOO_SHORT: Final = "the stored data was shorter than the required size"
NOT_AUTHENTIC: Final = "cipher: message authentication failed"


class AesGcm:
    """See `Transformer`."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        if len(stored) < NONCE_BYTES:
            raise TransformError(TOO_SHORT)
        try:
            return self._cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], context), False
        except InvalidTag:
            raise TransformError(NOT_AUTHENTIC) from None

    def seal(self, value: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, context)


class AesCbc:
    """See `Transformer`."""

    def __init__(self, key: bytes) -> None:
        self._key = AES(key)

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        if len(stored) < BLOCK_BYTES:
            raise TransformError(TOO_SHORT)
        if len(stored) % BLOCK_BYTES:
            raise TransformError("the stored data is not a multiple of the block size")
        decryptor = Cipher(self._key, CBC(stored[:BLOCK_BYTES])).decryptor()
        padded = decryptor.update(stored[BLOCK_BYTES:]) + decryptor.finalize()
        count = padded[-1] if padded else 0
        if not 0 < count <= len(padded):
            raise TransformError("invalid PKCS7 data (empty or not padded)")
        if padded[-count:] != bytes([count]) * count:
            raise TransformError("invalid padding on input")
        return padded[:-count], False

    def seal(self, value: bytes, context: bytes) -> bytes:
        vector = os.urandom(BLOCK_BYTES)
        padder = PKCS7(8 * BLOCK_BYTES).padder()
        encryptor = Cipher(self._key, CBC(vector)).encryptor()
        return vector + encryptor.update(padder.update(value) + padder.finalize()) + encryptor.finalize()
