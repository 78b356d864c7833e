"""Continue tokens: where the next page of a list begins.

    base64url({"v": "meta.k8s.io/v1", "rv": REVISION, "start": "KEY"})      a negative rv means whatever is current

https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
"""

from __future__ import annotations

import base64
import posixpath
from typing import Any, Final

import orjson

from tiphys.machinery.codec import decode_json
from tiphys.machinery.errors import bad_request
from tiphys.machinery.misfit import json_type

VERSION: Final = "meta.k8s.io/v1"
_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def encode_continue(revision: int, start: str) -> str:
    """The token of the page that goes on from the key `start`."""
    token = orjson.dumps({"v": VERSION, "rv": revision, "start": start})
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def decode_continue(token: str) -> tuple[int, str]:
    """(revision, the key from which the page goes on). StatusError (400) for what is no token."""
    try:
        data = _decoded(token)
        if data and not 0x20 <= data[0] < 0x7F:
            raise ValueError(f"invalid character '\\u{data[0]:04x}' looking for beginning of value")
        revision, start = _fields(decode_json(data))
    except ValueError as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from None
    return revision, start


def _decoded(token: str) -> bytes:
    """base64url without padding; whatever the last character has too much is let go. ValueError."""
    data = token.encode().replace(b"\r", b"").replace(b"\n", b"")
    wrong = next((i for i, char in enumerate(data) if char not in _ALPHABET), None)
    if wrong is None and len(data) % 4 == 1:
        wrong = len(data) - 1
    if wrong is not None:
        raise ValueError(f"illegal base64 data at input byte {wrong}")
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))


def _fields(value: Any) -> tuple[int, str]:
    """ValueError for a document that says nothing of a page."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ValueError(f"json: cannot unmarshal {json_type(value)} into Go value of type storage.continueToken")
    version, revision, start = (value.get(name) for name in ("v", "rv", "start"))
    for name, found, wanted in (("v", version, "string"), ("rv", revision, "int64"), ("start", start, "string")):
        fits = isinstance(found, str) if wanted == "string" else type(found) is int
        if found is not None and not fits:
            kind = f"number {found}" if wanted == "int64" and isinstance(found, float) else json_type(found)
            raise ValueError(
                f"json: cannot unmarshal {kind} into Go struct field continueToken.{name} of type {wanted}"
            )
    if version != VERSION:
        raise ValueError(f"server does not recognize this encoded version {version or ''}")
    if not revision:
        raise ValueError(f"incorrect encoded start resourceVersion (version {VERSION})")
    if not start:
        raise ValueError(f"encoded start key empty (version {VERSION})")
    # A start that climbs out of its directory would show what the path does not name.
    key = start if start.startswith("/") else f"/{start}"
    if posixpath.normpath(key) != key or key.startswith("//"):
        raise ValueError(start)
    return revision, key[1:]
