"""The string functions and conversion to text."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from tiphys.machinery.cel import times
from tiphys.machinery.cel.errors import EvalError
from tiphys.machinery.cel.formatting import formatted
from tiphys.machinery.cel.numbers import float_text
from tiphys.machinery.cel.regex import compiled
from tiphys.machinery.cel.values import no_overload


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise no_overload()


def text_of(value: Any) -> str:
    """`string(value)`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise EvalError("invalid UTF-8 in bytes, cannot convert to string") from None
    if isinstance(value, datetime):
        return times.timestamp_text(value)
    if isinstance(value, timedelta):
        return times.duration_text(value)
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)) or hasattr(value, "cel_text"):
        return str(value)
    raise no_overload()


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise EvalError(f"index out of range: {index}")
    return _text(text)[index : index + 1]


def index_of(text: str, wanted: str, offset: int = 0) -> int:
    """Where a text first occurs at or after `offset`; -1 when it does not."""
    if offset < 0:
        raise EvalError(f"index out of range: {offset}")
    if not wanted:
        return offset  # nothing is everywhere, even behind the end
    return text.find(wanted, offset)


def last_index_of(text: str, wanted: str, offset: int | None = None) -> int:
    """Where a text last occurs at or before `offset`; -1 when it does not."""
    if offset is None:
        return text.rfind(wanted)
    if offset < 0:
        raise EvalError(f"index out of range: {offset}")
    if offset > len(text):
        return -1
    return text.rfind(wanted, 0, offset + len(wanted))


def _lower_ascii(text: str) -> str:
    return "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in _text(text))


def _upper_ascii(text: str) -> str:
    return "".join(chr(ord(char) - 32) if "a" <= char <= "z" else char for char in _text(text))


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    _text(text)
    _text(separator)
    if limit == 0:
        return []
    if not separator:
        chars = list(text)
        return chars if limit < 0 or len(chars) <= limit else [*chars[: limit - 1], "".join(chars[limit - 1 :])]
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    _text(text)
    if end is None:
        end = len(text)
    if not 0 <= start <= len(text):
        raise EvalError(f"index out of range: {start}")
    if not 0 <= end <= len(text):
        raise EvalError(f"index out of range: {end}")
    if start > end:
        raise EvalError(f"invalid substring range. start: {start}, end: {end}")
    return text[start:end]


def _join(values: list[Any], separator: str = "") -> str:
    return separator.join(_text(one) for one in values)


def _find(text: str, pattern: str) -> str:
    found = compiled(pattern).search(_text(text))
    return found[0] if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in compiled(pattern).finditer(_text(text))]
    return found if limit < 0 else found[:limit]


def quoted(text: str) -> str:
    """The text as a literal."""
    escapes = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    escapes |= {"\\": "\\\\", '"': '\\"'}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'


METHODS: Final[dict[str, Callable[..., Any]]] = {
    "contains": lambda text, wanted: wanted in _text(text),
    "startsWith": lambda text, wanted: _text(text).startswith(wanted),
    "endsWith": lambda text, wanted: _text(text).endswith(wanted),
    "charAt": _char_at,
    "lowerAscii": _lower_ascii,
    "upperAscii": _upper_ascii,
    "replace": lambda text, old, new, limit=-1: _text(text).replace(old, new, limit),
    "split": _split,
    "substring": _substring,
    "trim": lambda text: _text(text).strip(),
    "format": formatted,
    "join": _join,
    "find": _find,
    "findAll": _find_all,
}
