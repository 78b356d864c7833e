"""The string functions, format() and conversion to text."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from tiphys.apiserver.cel import times
from tiphys.apiserver.cel.errors import EvalError
from tiphys.apiserver.cel.regex import compiled
from tiphys.apiserver.cel.values import CelType, UInt, no_overload


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise no_overload()


def float_text(value: float) -> str:
    """A double as Go writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        text = f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].zfill(2)}"
    return text


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
    if not 0 <= offset <= len(text):
        raise EvalError(f"index out of range: {offset}")
    return text.find(wanted, offset)


def last_index_of(text: str, wanted: str, offset: int | None = None) -> int:
    """Where a text last occurs at or before `offset`; -1 when it does not."""
    if offset is None:
        return text.rfind(wanted)
    if not 0 <= offset <= len(text):
        raise EvalError(f"index out of range: {offset}")
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


# --- format() -------------------------------------------------------------------------------------
def _format(text: str, args: list[Any]) -> str:
    out: list[str] = []
    i, used = 0, 0
    while i < len(text):
        if text[i] != "%":
            out.append(text[i])
            i += 1
            continue
        i += 1
        if text[i : i + 1] == "%":
            out.append("%")
            i += 1
            continue
        precision: int | None = None
        if text[i : i + 1] == ".":
            start = i = i + 1
            while text[i : i + 1].isdigit():
                i += 1
            precision = int(text[start:i] or 0)
        clause = text[i : i + 1]
        i += 1
        formatter = _CLAUSES.get(clause)
        if formatter is None:
            raise EvalError(f'could not parse formatting clause: unrecognized formatting clause "{clause}"')
        if used >= len(args):
            raise EvalError(f"index {used} out of range")
        out.append(formatter(args[used], precision))
        used += 1
    return "".join(out)


def _as_text(value: Any, precision: int | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, CelType):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_as_text(one, None) for one in value) + "]"
    if isinstance(value, dict):
        inner = sorted((_as_text(key, None), _as_text(one, None)) for key, one in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in inner) + "}"
    return text_of(value)


def _as_decimal(value: Any, precision: int | None) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return {"NaN": "NaN", "+Inf": "Infinity", "-Inf": "-Infinity"}[float_text(value)]
    if isinstance(value, bool) or not isinstance(value, (int, UInt)):
        raise EvalError("error during formatting: decimal clause can only be used on integers")
    return str(int(value))


def _as_number(form: str, default: int) -> Callable[[Any, int | None], str]:
    def clause(value: Any, precision: int | None) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise EvalError("error during formatting: fixed-point clause can only be used on doubles")
        return f"{float(value):.{default if precision is None else precision}{form}}"

    return clause


def _as_base(form: str) -> Callable[[Any, int | None], str]:
    def clause(value: Any, precision: int | None) -> str:
        if form in "xX" and isinstance(value, (str, bytes)):
            text = (value.encode() if isinstance(value, str) else value).hex()
            return text.upper() if form == "X" else text
        if isinstance(value, bool) and form == "b":
            return str(int(value))
        if not isinstance(value, int):
            raise EvalError("error during formatting: only integers, byte buffers, and strings can be formatted as hex")
        return format(int(value), form)

    return clause


_CLAUSES: Final[dict[str, Callable[[Any, int | None], str]]] = {
    "s": _as_text,
    "d": _as_decimal,
    "f": _as_number("f", 6),
    "e": _as_number("e", 6),
    **{form: _as_base(form) for form in "bxXo"},
}

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
    "format": _format,
    "join": _join,
    "find": _find,
    "findAll": _find_all,
}
