"""Numbers, strings and bytes as they are written."""

from __future__ import annotations

import math
from typing import Any, Final

from tiphys.machinery.cel.errors import CelSyntaxError, located
from tiphys.machinery.cel.values import INT_MAX, INT_MIN, UINT_MAX, UInt

_SIMPLE: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "`": "`", "?": "?",
}  # fmt: skip
_CODES: Final = {"x": 2, "X": 2, "u": 4, "U": 8}


def number(source: str, at: int, text: str) -> Any:
    """An int, UInt or float. CelSyntaxError for one that is too large."""
    if text[-1] in "uU":
        value = int(text[:-1], 0 if "x" in text else 10)
        if value > UINT_MAX:
            raise CelSyntaxError(located(source, [(at, "invalid uint literal")]))
        return UInt(value)
    if "x" not in text and ("." in text or "e" in text or "E" in text):
        if math.isinf(float(text)):
            raise CelSyntaxError(located(source, [(at, "invalid double literal")]))
        return float(text)
    value = int(text, 16 if "x" in text else 10)
    if not INT_MIN <= value <= INT_MAX:
        raise CelSyntaxError(located(source, [(at, "invalid int literal")]))
    return value


def text_literal(source: str, at: int, text: str) -> str | bytes:
    """A string or bytes. CelSyntaxError for a bad escape."""
    start = 0
    while text[start] in "bBrR":
        start += 1
    prefix = text[:start].lower()
    quotes = 3 if text[start : start + 3] in ('"""', "'''") else 1
    inner = text[start + quotes : -quotes]
    if "b" in prefix and "r" not in prefix and ("\\u" in inner or "\\U" in inner):
        raise CelSyntaxError(located(source, [(at, "unable to unescape string")]))
    if "r" in prefix or "\\" not in inner:
        return inner.encode() if "b" in prefix else inner
    try:
        return _unescaped_bytes(inner) if "b" in prefix else _unescaped(inner)
    except (ValueError, IndexError):
        raise CelSyntaxError(located(source, [(at, "unable to unescape string")])) from None


def _escape(inner: str, i: int) -> tuple[str, int, bool]:
    """(character, how far it reaches, whether it is a byte) of the escape whose backslash is at `i`."""
    char = inner[i + 1]
    if char in _SIMPLE:
        return _SIMPLE[char], i + 2, False
    if char in _CODES:
        end = i + 2 + _CODES[char]
        return chr(int(inner[i + 2 : end], 16)), end, char in "xX"
    return chr(int(inner[i + 1 : i + 4], 8)), i + 4, True


def _unescaped(inner: str) -> str:
    out, i = [], 0
    while i < len(inner):
        if inner[i] == "\\":
            char, i, _ = _escape(inner, i)
            out.append(char)
        else:
            out.append(inner[i])
            i += 1
    return "".join(out)


def _unescaped_bytes(inner: str) -> bytes:
    out, i = bytearray(), 0
    while i < len(inner):
        if inner[i] == "\\":
            char, i, is_byte = _escape(inner, i)
            out += bytes([ord(char)]) if is_byte else char.encode()
        else:
            out += inner[i].encode()
            i += 1
    return bytes(out)
