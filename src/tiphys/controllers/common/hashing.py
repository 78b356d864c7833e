"""Short hashes of templates, for names and labels.

A hash is part of a name, so it must be short, stable between releases of ours, and free of
characters that could spell words: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pod-template-hash-label
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

_SAFE: Final = "bcdfghjklmnpqrstvwxz2456789"


def fnv1a_32(data: bytes) -> int:
    """The 32-bit FNV-1a hash."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def fnv1_32(data: bytes) -> int:
    """The 32-bit FNV-1 hash, which multiplies first."""
    value = 0x811C9DC5
    for byte in data:
        value = value * 0x01000193 & 0xFFFFFFFF ^ byte
    return value


def safe_encode(text: str) -> str:
    """`text` in characters that are safe in names; digits and letters are spread over 27 of them."""
    return "".join([_SAFE[ord(char) % len(_SAFE)] for char in text])


def template_hash(template: Any, collision_count: int | None = None) -> str:
    """The hash of a template's content (a struct or plain data) and of how often that hash was taken."""
    content = orjson.dumps(msgspec.to_builtins(template), option=orjson.OPT_SORT_KEYS)
    if collision_count is not None:
        content += collision_count.to_bytes(8, "little")
    return safe_encode(str(fnv1a_32(content)))


def revision_hash(data: Any, collision_count: int) -> str:
    """The hash of a ControllerRevision's content, as every controller of StatefulSets computes it."""
    content = orjson.dumps(data, option=orjson.OPT_SORT_KEYS) + str(collision_count).encode()
    return safe_encode(str(fnv1_32(content)))
