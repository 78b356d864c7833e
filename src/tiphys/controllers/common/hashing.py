"""Short hashes of templates, for names and labels.

A hash is part of a name, so it must be short, free of characters that could spell words, and the one that upstream's
controllers compute of the same template, as they may have made the ReplicaSet that is there:
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pod-template-hash-label
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from tiphys.controllers.common.godump import dump_template

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
    """The hash of a pod template (a struct or plain data) and of how often that hash was taken."""
    return _template_hash(orjson.dumps(msgspec.to_builtins(template)), collision_count)


@lru_cache(maxsize=256)
def _template_hash(template: bytes, collision_count: int | None) -> str:
    content = dump_template(orjson.loads(template)).encode()
    if collision_count is not None:
        content += collision_count.to_bytes(8, "little")
    return safe_encode(str(fnv1a_32(content)))


# Characters that upstream's JSON encoder escapes although JSON does not ask for it.
_ESCAPED: Final = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}


def revision_hash(data: Any, collision_count: int) -> str:
    """The hash of a ControllerRevision's content, as every controller of StatefulSets computes it."""
    content = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    for plain, escaped in _ESCAPED.items():
        content = content.replace(plain, escaped)
    return safe_encode(str(fnv1_32(content + str(collision_count).encode())))
