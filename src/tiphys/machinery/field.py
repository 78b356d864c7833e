"""Validation errors of one field, worded as the API server words them, and the path to the field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# A value that errors do not show.
OMITTED = object()

# Cause reason → the words its message begins with.
_WORDS = {
    "FieldValueRequired": "Required value",
    "FieldValueInvalid": "Invalid value",
    "FieldValueTypeInvalid": "Invalid value",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueDuplicate": "Duplicate value",
    "FieldValueNotFound": "Not found",
    "FieldValueForbidden": "Forbidden",
    "FieldValueTooLong": "Too long",
    "FieldValueTooMany": "Too many",
    "InternalError": "Internal error",
}

# These say nothing of the value.
_WITHOUT_VALUE = {"FieldValueRequired", "FieldValueForbidden", "FieldValueTooLong", "InternalError"}

IMMUTABLE = "field is immutable"


@dataclass(frozen=True, slots=True)
class Path:
    """The place of a field: `Path("spec").child("containers").index(0).key("x")` → `spec.containers[0][x]`."""

    text: str = ""

    def child(self, *names: str) -> Path:
        return Path(".".join([self.text, *names]) if self.text else ".".join(names))

    def index(self, index: int) -> Path:
        return Path(f"{self.text}[{index}]")

    def key(self, key: str) -> Path:
        return Path(f"{self.text}[{key}]")

    def __str__(self) -> str:
        return self.text or "<nil>"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One error. `type` is the cause's reason; `field` the path as text."""

    type: str
    field: str
    value: Any
    detail: str = ""

    @property
    def body(self) -> str:
        """The message without the path, as a cause carries it."""
        head = _WORDS[self.type]
        if self.type not in _WITHOUT_VALUE and self.value is not OMITTED:
            head = f"{head}: {show(self.value)}"
        return f"{head}: {self.detail}" if self.detail else head

    def __str__(self) -> str:
        return f"{self.field}: {self.body}"


def show(value: Any) -> str:
    """A bad value as the server shows it: text quoted, numbers bare, anything else as JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (int, float)):
        return str(value)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
    # As texts for web pages are written; these characters are nowhere in JSON but in its strings.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quote(text: str) -> str:
    """Text in double quotes with Go's escapes, as every message of the server quotes."""
    out = []
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char.isprintable() or char == " ":
            out.append(char)
        else:
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return f'"{"".join(out)}"'


def required(path: Path, detail: str = "") -> FieldError:
    return FieldError("FieldValueRequired", str(path), "", detail)


def invalid(path: Path, value: Any, detail: str) -> FieldError:
    return FieldError("FieldValueInvalid", str(path), value, detail)


def type_invalid(path: Path, value: Any, detail: str) -> FieldError:
    return FieldError("FieldValueTypeInvalid", str(path), value, detail)


def not_supported(path: Path, value: Any, supported: Iterable[str]) -> FieldError:
    """`supported` in the order in which the message lists it; most callers sort."""
    values = ", ".join(quote(one) for one in supported)
    return FieldError("FieldValueNotSupported", str(path), value, f"supported values: {values}" if values else "")


def duplicate(path: Path, value: Any) -> FieldError:
    return FieldError("FieldValueDuplicate", str(path), value)


def not_found(path: Path, value: Any) -> FieldError:
    return FieldError("FieldValueNotFound", str(path), value)


def forbidden(path: Path, detail: str) -> FieldError:
    return FieldError("FieldValueForbidden", str(path), "", detail)


def too_long(path: Path, value: Any, max_length: int) -> FieldError:
    """Longer than `max_length` bytes."""
    detail = f"may not be more than {max_length} bytes" if max_length >= 0 else "value is too long"
    return FieldError("FieldValueTooLong", str(path), value, detail)


def too_many(path: Path, actual: int, maximum: int) -> FieldError:
    detail = f"must have at most {maximum} item{'' if maximum == 1 else 's'}" if maximum >= 0 else "has too many items"
    return FieldError("FieldValueTooMany", str(path), actual, detail)


def internal(path: Path, error: object) -> FieldError:
    return FieldError("InternalError", str(path), None, str(error))


def immutable(path: Path, value: Any) -> FieldError:
    """A field that may not change has changed to `value`."""
    return invalid(path, value, IMMUTABLE)
