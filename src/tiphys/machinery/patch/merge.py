"""Merge patch (RFC 7396): null deletes, objects merge, everything else replaces."""

from __future__ import annotations

from typing import Any


def apply_merge_patch(doc: Any, patch: Any) -> Any:
    """The patched document. Cannot fail."""
    if not isinstance(patch, dict):
        return patch
    out = dict(doc) if isinstance(doc, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            # Nulls below a new object delete nothing, but do not come along either.
            out[key] = apply_merge_patch(out.get(key), value)
        else:
            out[key] = value
    return out


def create_merge_patch(old: Any, new: Any) -> Any:
    """The smallest merge patch that turns `old` into `new`; {} when nothing differs (objects only)."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif old[key] != value or type(old[key]) is not type(value):
            patch[key] = create_merge_patch(old[key], value)
    return patch
