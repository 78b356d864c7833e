"""Configuration files of the server: YAML or JSON documents of a known kind, told apart from all others.

What a file says wrong is a ConfigError in upstream's words, so that whoever starts a server reads one clear line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tiphys.machinery.codec import decode_yaml
from tiphys.machinery.field import FieldError, quote

Object = dict[str, Any]
# The fields of a document: a name leads to None (any value), to another shape, or to a list of one shape.
Shape = Mapping[str, Any]
SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NOT_A_SUBDOMAIN: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


class ConfigError(ValueError):
    """A file or flag the server cannot start with."""


def read(path: Path) -> bytes:
    """The file's bytes. Raises ConfigError as `open NAME: why`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def document(data: bytes) -> Object:
    """The one document of a file. Raises ConfigError when it is no mapping."""
    try:
        found = decode_yaml(data).value
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(found, dict):
        raise ConfigError("couldn't get version/kind; json parse error: the document is no object")
    return found


def check_kind(found: Object, kind: str, versions: Iterable[str], scheme: str) -> None:
    """Refuse a document that is not of `kind` in one of the API versions. Raises ConfigError."""
    version = found.get("apiVersion") or ""
    if not found.get("kind"):
        raise ConfigError("Object 'Kind' is missing")
    if found["kind"] != kind or version not in versions:
        name, where = quote(str(found["kind"])), quote(str(version))
        raise ConfigError(f"no kind {name} is registered for version {where} in scheme {quote(scheme)}")


def unknown_fields(value: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """The paths of fields that `shape` does not have."""
    if not isinstance(value, dict):
        return
    for name, found in value.items():
        where = f"{path}.{name}" if path else name
        if name not in shape:
            yield where
            continue
        inner = shape[name]
        if isinstance(inner, list):
            for index, one in enumerate(found if isinstance(found, list) else ()):
                yield from unknown_fields(one, inner[0], f"{where}[{index}]")
        elif inner is not None:
            yield from unknown_fields(found, inner, where)


def strict_error(unknown: Iterable[str]) -> str:
    """What a strict decoder says of unknown fields; "" when there are none."""
    named = [f"unknown field {quote(name)}" for name in unknown]
    return f"strict decoding error: {', '.join(named)}" if named else ""


def joined(errors: Iterable[FieldError | str]) -> str:
    """Several errors as one text: each once, in brackets when there is more than one."""
    texts = list(dict.fromkeys(map(str, errors)))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
