"""What is known of parts of objects that come again and again: the specs of pods made from one template.

    spec ─ as JSON, the name of the token's volume (random in every pod) replaced by NUL ─▶ Known: valid? normal bytes

Two specs with one key differ at most in that name, and both names follow one pattern: what was found about one holds
for the other. NUL cannot be in JSON text, so nothing else is mistaken for the mark.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

MARK: Final = b"\0"
MAX_BYTES: Final = 32 * 1024  # larger parts are not remembered
MAX_KNOWN: Final = 64
_TOKEN_VOLUME: Final = re.compile(rb'"name":"(kube-api-access-[a-z0-9]{5})"')


class Known:
    """Facts of one part. `valid`: no error and no warning comes from it; `normal`: its bytes in normal form, marked."""

    __slots__ = ("normal", "valid")

    def __init__(self) -> None:
        self.valid = False
        self.normal: bytes | None = None

    def keep(self, normal: bytes, name: bytes) -> None:
        """Remember the normal bytes of a part whose volume has this name."""
        self.normal = normal.replace(name, MARK) if name else normal

    def bytes_with(self, name: bytes) -> bytes | None:
        """The normal bytes of a part whose volume has this name; None when they are not known yet."""
        return self.normal if self.normal is None or not name else self.normal.replace(MARK, name)


class Templates:
    """The parts met most recently."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def find(self, part: Any) -> tuple[Known, bytes] | None:
        """What is known of a part, and the name to put for the mark; None when it is not worth remembering."""
        key = orjson.dumps(part)
        if len(key) > MAX_BYTES:
            return None
        name = b""
        match = _TOKEN_VOLUME.search(key)
        if match is not None:
            name = match[1]
            if key.count(b'"name":"' + name + b'"') != key.count(name):
                return None  # it stands elsewhere too, where its spelling may matter
            key = key.replace(name, MARK)
        known = self._known.pop(key, None) or Known()
        self._known[key] = known  # the last one met goes last
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return known, name
