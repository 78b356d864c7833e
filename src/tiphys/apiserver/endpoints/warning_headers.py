"""The Warning headers of an answer.

Source: RFC 7234 section 5.5; KEP-1693; the limits as the v1.36 API server keeps them: texts of 4,096 characters in all
go out as they are, of more each is cut, and there are no further ones once that many have gone out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

WHOLE: Final = 4096  # characters of all texts that are sent uncut
CUT: Final = 256  # characters of each text otherwise


def warning_headers(texts: Iterable[str]) -> list[tuple[str, str]]:
    """One header for each text, none twice; their bytes are UTF-8, one byte a character of the value."""
    return [("Warning", f"299 - {_quoted(text)}") for text in _limited(list(dict.fromkeys(texts)))]


def _limited(texts: list[str]) -> Iterator[str]:
    if sum(map(len, texts)) <= WHOLE:
        yield from texts
        return
    written = 0
    for text in texts:
        if written >= WHOLE:
            return
        yield text[:CUT]
        written += min(len(text), CUT)


def _quoted(text: str) -> str:
    """A quoted-string of RFC 9110; control characters cannot be in a header."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.encode(errors="replace").decode("latin-1")
