"""Values that are in the store and cannot be read: sealed, and nobody has the key.

A store that opens sealed values hands out a marker for such a one; where nothing opens them the value itself comes.
Either way it is not the JSON of an object, so it is noticed where that is read, and costs nothing before.
"""

from __future__ import annotations

from typing import Final

_MARK: Final = b"\0unreadable:"
_SEALED: Final = b"k8s:enc:"
_NOT_OPENED: Final = "identity transformer tried to read encrypted data"  # upstream's words


def unreadable(why: str) -> bytes:
    """What stands for a value that cannot be read."""
    return _MARK + why.encode()


def why_unreadable(value: bytes) -> str | None:
    """The reason, for the marker of `unreadable` and for what is sealed; None for everything else."""
    if value.startswith(_MARK):
        return value[len(_MARK) :].decode()
    return _NOT_OPENED if value.startswith(_SEALED) else None
