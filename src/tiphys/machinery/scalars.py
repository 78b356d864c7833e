"""The normal form of single values: one converter for each kind of scalar of a type.

Each takes a decoded JSON value and returns its normal form, or raises `MismatchError` or `DecodeError`. Source:
observed behaviour of the v1.36 API server.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from tiphys.machinery.field import quote
from tiphys.machinery.misfit import GO_TYPES, DecodeError, MismatchError, number, wrong
from tiphys.machinery.quantity import canonical
from tiphys.machinery.time import format_micro_time, format_time, parse_rfc3339

Convert = Callable[[Any], Any]

DROP: Final = object()  # instead of a value: the field is left out
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
# In another time zone; never in more or fewer than six digits.
_MICRO_ELSEWHERE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", re.ASCII)
_RANGES: Final = {"i": 2**31, "l": 2**63}
_BASE64_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")


def _string(value: Any) -> Any:
    if type(value) is not str:
        raise wrong(value, "string")
    return value


def optional_text(value: Any) -> Any:
    """A string that is left out when it is empty."""
    if type(value) is not str:
        raise wrong(value, "string")
    return value or DROP


def _integer(kind: str) -> Convert:
    bound = _RANGES[kind]
    go_type = GO_TYPES[kind]

    def step(value: Any) -> Any:
        if type(value) is int and -bound <= value < bound:
            return value
        if type(value) in {int, float}:
            raise MismatchError(f"number {number(value)}", go_type, fraction=type(value) is float)
        raise wrong(value, go_type)

    return step


def _boolean(value: Any) -> Any:
    if type(value) is not bool:
        raise wrong(value, "bool")
    return value


def _float(value: Any) -> Any:
    if type(value) is int:
        return value
    if type(value) is not float:
        raise wrong(value, "float64")
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _int_or_string(value: Any) -> Any:
    try:
        return value if type(value) is str else _integer("i")(value)
    except MismatchError as error:
        error.own = True
        raise


def _quantity(value: Any) -> Any:
    if type(value) not in {str, int, float}:
        raise DecodeError(_QUANTITY_RULE)
    try:
        return canonical(value)
    except ValueError as error:
        raise DecodeError(str(error)) from None


_QUANTITY_RULE: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _time(value: Any) -> Any:
    if type(value) is not str:
        raise wrong(value, "string", own=True)
    if _TIME.fullmatch(value) and value != "0001-01-01T00:00:00Z":
        return value
    try:
        at = parse_rfc3339(value)
    except ValueError:
        raise DecodeError(_time_error(value, "2006-01-02T15:04:05Z07:00")) from None
    return None if at.year == 1 else format_time(at)


def _micro_time(value: Any) -> Any:
    if type(value) is not str:
        raise wrong(value, "string", own=True)
    if _MICRO.fullmatch(value):
        return value
    if _MICRO_ELSEWHERE.fullmatch(value):
        with suppress(ValueError):
            return format_micro_time(parse_rfc3339(value))
    raise DecodeError(_time_error(value, "2006-01-02T15:04:05.000000Z07:00", _MICRO_PARTS))


# The parts of a layout with the text each must match, for the message that says where a time stops making sense.
_LAYOUT_PARTS: Final = (
    ("2006", r"\d{4}"),
    ("-", "-"),
    ("01", r"\d\d"),
    ("-", "-"),
    ("02", r"\d\d"),
    ("T", "T"),
    ("15", r"\d\d"),
    (":", ":"),
    ("04", r"\d\d"),
    (":", ":"),
    ("05", r"\d\d"),
    ("Z07:00", r"Z|[+-]\d\d:\d\d"),
)


_MICRO_PARTS: Final = (*_LAYOUT_PARTS[:-1], (".000000", r"\.\d{6}"), _LAYOUT_PARTS[-1])


def _time_error(text: str, layout: str, parts: Sequence[tuple[str, str]] = _LAYOUT_PARTS) -> str:
    """The words for a text that is no time: which part of the layout did not fit what was left."""
    position = 0
    for part, pattern in parts:
        match = re.compile(pattern, re.ASCII).match(text, position)
        if match is None:
            return (
                f"parsing time {quote(text)} as {quote(layout)}: cannot parse {quote(text[position:])} as {quote(part)}"
            )
        position = match.end()
    if position < len(text):
        return f"parsing time {quote(text)}: extra text: {quote(text[position:])}"
    return f"parsing time {quote(text)}: out of range"


def _bytes(value: Any) -> Any:
    if type(value) is not str:
        raise wrong(value, "[]uint8")
    try:
        raw = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return _lenient_bytes(value)
    return value if len(value) % 4 == 0 and value.isascii() else b64encode(raw).decode()


def _lenient_bytes(value: str) -> str:
    """Line breaks are allowed; anything else is an error at a place."""
    plain = value.replace("\r", "").replace("\n", "")
    if plain != value:
        try:
            return b64encode(b64decode(plain, validate=True)).decode()
        except (binascii.Error, ValueError):
            pass
    place = next((i for i, char in enumerate(value) if char not in _BASE64_ALPHABET), None)
    if place is None:
        padding = value.find("=")
        place = padding if padding >= 0 and padding % 4 < 2 else len(value) // 4 * 4 if padding < 0 else padding + 1
    problem = f"illegal base64 data at input byte {place}"
    raise DecodeError(problem, f"error decoding from json: {problem}")


def _object(value: Any) -> Any:
    return value


SCALARS: Final[dict[str, Convert]] = {
    "s": _string,
    "i": _integer("i"),
    "l": _integer("l"),
    "b": _boolean,
    "f": _float,
    "x": _int_or_string,
    "q": _quantity,
    "t": _time,
    "u": _micro_time,
    "y": _bytes,
    "o": _object,
}
