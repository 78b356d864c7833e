"""The one quantity the runtime reads itself: bandwidth annotations of pods ("10M" is ten million bits a second)."""

from __future__ import annotations

import re
from typing import Final

_FORM: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMGTPE]i?|Ki)?")
_FACTORS: Final = {"": 1, **{f"{unit}": 1000**n for n, unit in enumerate("kMGTPE", 1)}}
_BINARY: Final = {f"{unit}i": 1024**n for n, unit in enumerate("KMGTPE", 1)}


def bits_per_second(text: str) -> int:
    """The annotation's value; 0 (unlimited) for an empty or unreadable one, as the kubelet validates it."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return 0
    return int(float(found[1]) * (_FACTORS | _BINARY).get(found[2] or "", 0))
