"""Words of HAProxy's configuration, safe whatever a user wrote into an object."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@=+,\-]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# What may stand in a path as it comes over the wire; everything else is percent-encoded there.
_PATH_SAFE: Final = "/%:@!$&'()*+,;=-._~"


class UnsafeTextError(ValueError):
    """A text that cannot stand in a configuration: it has control characters."""


def word(text: str) -> str:
    """One argument, quoted where needed. Raises UnsafeTextError for control characters."""
    if _CONTROL.search(text):
        raise UnsafeTextError(f"{text!r} has control characters")
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def literal(text: str) -> str:
    """One argument where HAProxy reads a format: a percent sign is only itself."""
    return word(text.replace("%", "%%"))


def path_on_the_wire(path: str) -> str:
    """A path as clients send it: what may not stand in a URL is percent-encoded, what is encoded already stays."""
    return quote(path, safe=_PATH_SAFE)


def argument(text: str) -> str:
    """A text as an argument inside parentheses, where commas and parentheses mean something."""
    if _PLAIN.fullmatch(text) and "," not in text:
        return text
    return '"' + "".join("\\" + one if one in '\\"$' else one for one in text) + '"'


def pattern(text: str) -> str:
    """How a whole text is compared, at the end of a condition; HAProxy takes no empty value and no brace."""
    if not text:
        return "-m len 0"
    if text in ("{", "}"):
        return f"-m reg -- '^[{text}]$'"
    return f"-m str -- {word(text)}"
