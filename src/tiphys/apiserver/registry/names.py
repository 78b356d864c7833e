"""Random names: uids and the suffixes of generated names.

They have to be unique, not secret: the generator of the `random` module is used, which is seeded anew in every forked
child, because asking the kernel for each would cost more than the rest of a small request.
"""

from __future__ import annotations

import random
from typing import Final

SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"  # no vowels and no look-alikes, so no words
SUFFIX_LENGTH: Final = 5
MAX_GENERATED: Final = 63


def new_uid() -> str:
    """A random UUID (version 4, RFC 9562)."""
    text = f"{random.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def generate_name(base: str) -> str:
    """A name from generateName: the base cut to leave room, and five random characters."""
    suffix = "".join(random.choices(SUFFIX_ALPHABET, k=SUFFIX_LENGTH))
    return base[: MAX_GENERATED - SUFFIX_LENGTH] + suffix
