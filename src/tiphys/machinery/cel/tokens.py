"""Text to tokens of CEL, and what of the text is none.

https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_ESCAPE: Final = r"\\(?:[abfnrtv\"'`\\?]|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})"
_QUOTED: Final = (
    rf"\"\"\"(?:{_ESCAPE}|[^\\])*?\"\"\"",
    rf"\'\'\'(?:{_ESCAPE}|[^\\])*?\'\'\'",
    rf'"(?:{_ESCAPE}|[^"\\\n\r])*"',
    rf"'(?:{_ESCAPE}|[^'\\\n\r])*'",
)
# Backslashes mean themselves.
_RAW: Final = (r"\"\"\"(?:.)*?\"\"\"", r"\'\'\'(?:.)*?\'\'\'", r'"[^"\n\r]*"', r"'[^'\n\r]*'")
_FLOATS: Final = (
    r"[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?",
    r"[0-9]+[eE][+-]?[0-9]+",
    r"\.[0-9]+(?:[eE][+-]?[0-9]+)?",
)
_TOKENS: Final = re.compile(
    r"(?P<space>[ \t\r\n\f]+|//[^\n]*)"
    rf"|(?P<string>[bB]?[rR](?:{'|'.join(_RAW)})|[bB]?(?:{'|'.join(_QUOTED)}))"
    rf"|(?P<number>0x[0-9a-fA-F]+u?|{'|'.join(_FLOATS)}|[0-9]+[uU]?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<quoted>`[A-Za-z0-9_.\-/ ]+`)"
    r"|(?P<op>\|\||&&|==|!=|<=|>=|[<>+\-*/%!?:.,()\[\]{}])",
    re.DOTALL,
)
# The longest beginning of a text in quotes that never ends well: an error swallows it and the character that spoils it.
_BROKEN_ESCAPE: Final = r"\\(?:[xX][0-9a-fA-F]{0,1}|u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|[0-3][0-7]{0,1})?"
_BROKEN: Final = {
    '"': re.compile(rf'"(?:{_ESCAPE}|[^"\\\n\r])*(?:{_BROKEN_ESCAPE})?', re.DOTALL),
    "'": re.compile(rf"'(?:{_ESCAPE}|[^'\\\n\r])*(?:{_BROKEN_ESCAPE})?", re.DOTALL),
}
# These begin an operator of two characters, none of one.
_HALVES: Final = "&|="


class Token(NamedTuple):
    """One token; `kind` is string, number, name, quoted, op or end."""

    kind: str
    text: str
    at: int


def tokens_of(source: str) -> tuple[list[Token], list[tuple[int, str]]]:
    """The tokens of `source`, an end behind them, and the places and texts of what is no token."""
    found: list[Token] = []
    problems: list[tuple[int, str]] = []
    at = 0
    while at < len(source):
        match = _TOKENS.match(source, at)
        if match is None:
            end = _broken(source, at)
            problems.append((at, f"Syntax error: token recognition error at: '{source[at:end]}'"))
            at = end
            continue
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(Token(kind, match[0], at))
        at = match.end()
    found.append(Token("end", "<EOF>", len(source)))
    return found, problems


def _broken(source: str, at: int) -> int:
    """Where what cannot be a token ends: behind the character that made it impossible."""
    char = source[at]
    if char in _HALVES:
        return min(at + 2, len(source))
    if char in _BROKEN:
        match = _BROKEN[char].match(source, at)
        return min((match.end() if match else at) + 1, len(source))
    return at + 1
