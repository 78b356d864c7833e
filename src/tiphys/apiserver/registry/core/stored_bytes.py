"""What ConfigMaps and Secrets have in common: keys that are file names, values that are bytes."""

from __future__ import annotations

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path


def key_errors(key: str, path: Path) -> list[FieldError]:
    return [field.invalid(path, key, message) for message in formats.config_map_key(key)]


def decoded_size(base64_text: str) -> int:
    """How many bytes base64 text stands for, without decoding it."""
    return len(base64_text) * 3 // 4 - base64_text[-2:].count("=")
