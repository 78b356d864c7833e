"""Errors of patches, and the server's way of showing values in them."""

from __future__ import annotations

from typing import Any


class PatchError(ValueError):
    """The patch cannot be applied to this document. The server answers with a bare 500, or what the caller decides."""


class BadPatchError(PatchError):
    """The patch itself is malformed: 400."""


def show_map(value: Any) -> str:
    """A value in the style of `map[spec:map[replicas:3]]`."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show_map(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(show_map(one) for one in value) + "]"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
