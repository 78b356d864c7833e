"""The formats of strings that schemas may name; others are not checked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from typing import Final
from urllib.parse import urlsplit

from tiphys.machinery import formats
from tiphys.machinery.cel.regex import compile_pattern
from tiphys.machinery.time import parse_rfc3339


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return test


def _matches(pattern: str) -> Callable[[str], bool]:
    found = re.compile(pattern)
    return lambda text: found.fullmatch(text) is not None


def _uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


_HEX: Final = r"(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?%s-?%s-?[0-9a-f]{12}"
_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_UNITS: Final = (
    "ns|us|µs|ms|seconds|second|secs|sec|s|minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wk|w"
)
_DURATION: Final = rf"\s*(?:\d+(?:\.\d+)?\s*(?:{_UNITS})\s*)+"
_LABEL: Final = "[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "date-time": _parses(parse_rfc3339),
    "datetime": _parses(parse_rfc3339),
    "date": _parses(lambda text: date.fromisoformat(text) if len(text) == 10 else int("x")),
    "duration": _matches(_DURATION),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "cidr": lambda text: formats.parse_cidr_sloppy(text) is not None,
    "mac": _matches(r"(?i)([0-9a-f]{2}[:-]){5}[0-9a-f]{2}|([0-9a-f]{4}\.){2}[0-9a-f]{4}"),
    "uri": _uri,
    "email": _matches(r"[^@\s]+@[^@\s]+"),
    "hostname": _matches(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*"),
    "uuid": _matches(_HEX % ("[0-9a-f]{4}", "[0-9a-f]{4}")),
    "uuid3": _matches(_HEX % ("3[0-9a-f]{3}", "[0-9a-f]{4}")),
    "uuid4": _matches(_HEX % ("4[0-9a-f]{3}", "[89ab][0-9a-f]{3}")),
    "uuid5": _matches(_HEX % ("5[0-9a-f]{3}", "[89ab][0-9a-f]{3}")),
    "byte": _matches(_BASE64),
    "hexcolor": _matches("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _matches(r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)"),
    "creditcard": _matches(r"[\d -]{13,25}"),
    "isbn": _matches(r"(?:[\d-]{9,16}[\dXx])"),
    "isbn10": _matches(r"(?:\d-?){9}[\dXx]"),
    "isbn13": _matches(r"(?:\d-?){13}"),
    "ssn": _matches(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "bsonobjectid": _matches("[0-9a-fA-F]{24}"),
    "regex": _parses(compile_pattern),
    "k8s-short-name": lambda text: not formats.dns1123_label(text),
    "k8s-long-name": lambda text: not formats.dns1123_subdomain(text),
}


# Formats of numbers, and the one of texts that any text has.
_UNCHECKED: Final = frozenset({"int32", "int64", "float", "double", "password"})


def is_known(name: str) -> bool:
    """Whether a schema may name this format without a warning."""
    return name in _CHECKS or name in _UNCHECKED


def is_format(name: str, text: str) -> bool:
    """Whether a text has a format; True for formats nobody knows."""
    check = _CHECKS.get(name)
    return check is None or check(text)
