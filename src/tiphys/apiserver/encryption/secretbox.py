"""secretbox: XSalsa20 and Poly1305 with a key of 32 bytes, as NaCl puts them together.

    nonce (24, random) ─ tag (16) ─ ciphertext     https://nacl.cr.yp.to/secretbox.html

It does not bind a value to its place in the store; its nonce is long enough to be random for ever.
"""

from __future__ import annotations

import os
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from tiphys.apiserver.encryption.aes import TOO_SHORT
from tiphys.apiserver.encryption.transformer import TransformError

NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16


class Secretbox:
    """See `Transformer`."""

    def __init__(self, key: bytes) -> None:
        self._box = SecretBox(key)

    def open(self, stored: bytes, context: bytes) -> tuple[bytes, bool]:
        if len(stored) < NONCE_BYTES + TAG_BYTES:
            raise TransformError(TOO_SHORT)
        try:
            return self._box.decrypt(stored[NONCE_BYTES:], stored[:NONCE_BYTES]), False
        except CryptoError:
            raise TransformError("output array was not large enough for encryption") from None  # upstream's words

    def seal(self, value: bytes, context: bytes) -> bytes:
        return bytes(self._box.encrypt(value, os.urandom(NONCE_BYTES)))
