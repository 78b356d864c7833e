"""Regular expressions of RE2's dialect, by Python's engine.

What differs in meaning is translated: `$` and `\\z` are the very end, character classes such as `[[:alpha:]]` and
`\\pL`, and flags in the middle. Patterns are short here; what RE2 refuses (look-around, back references) is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from tiphys.machinery.cel.errors import EvalError

_POSIX: Final = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": "\\x00-\\x7F", "blank": "\\t ", "cntrl": "\\x00-\\x1F\\x7F",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
# Close enough for what patterns are used for: the letters and digits of the Basic Multilingual Plane.
_UNICODE: Final = {"L": "^\\W\\d_", "Lu": "A-Z", "Ll": "a-z", "N": "\\d", "Nd": "\\d"}
_CLASSES: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\\t\\n\\f\\r "}
_FORBIDDEN: Final = re.compile(r"\(\?(?:=|!|<=|<!|P=|#|\()")


def translate(pattern: str) -> str:
    """The same pattern for Python. Raises ValueError for what RE2 does not know."""
    forbidden = _FORBIDDEN.search(pattern)
    if forbidden:
        raise ValueError(f"error parsing regexp: invalid or unsupported Perl syntax: `{forbidden[0]}`")
    out: list[str] = []
    i, in_class = 0, False
    while i < len(pattern):
        char = pattern[i]
        if char == "\\" and i + 1 < len(pattern):
            text, i = _escape(pattern, i, in_class)
            out.append(text)
            continue
        if in_class:
            if char == "[" and pattern.startswith("[:", i) and (end := pattern.find(":]", i)) > 0:
                out.append(_posix(pattern[i + 2 : end]))
                i = end + 2
                continue
            if char in "[&|~" or pattern[i - 1 : i + 1] == "--":  # these would begin set operations of Python's
                out.append("\\")
            in_class = char != "]"
        elif char == "[":
            in_class = True
            out.append(char)
            i += 1
            if pattern.startswith("^", i):
                out.append("^")
                i += 1
            if pattern.startswith("]", i):
                out.append("\\]")
                i += 1
            continue
        elif char == "$":
            char = "(?!\\n)\\Z" if "(?m" not in pattern else "$"
        out.append(char)
        i += 1
    return "".join(out)


def _posix(name: str) -> str:
    if name not in _POSIX:
        raise ValueError(f"error parsing regexp: invalid character class range: `[:{name}:]`")
    return _POSIX[name]


def _escape(pattern: str, i: int, in_class: bool) -> tuple[str, int]:
    char = pattern[i + 1]
    if char == "z":
        return "\\Z", i + 2
    if char in _CLASSES:
        return (_CLASSES[char] if in_class else f"[{_CLASSES[char]}]"), i + 2
    if char in "DWS" and not in_class:
        return f"[^{_CLASSES[char.lower()]}]", i + 2
    if char in "pP":
        if pattern[i + 2 : i + 3] == "{":
            end = pattern.index("}", i)
            name, end = pattern[i + 3 : end], end + 1
        else:
            name, end = pattern[i + 2 : i + 3], i + 3
        if name not in _UNICODE:
            raise ValueError(f"error parsing regexp: invalid character class range: `{pattern[i:end]}`")
        inner = _UNICODE[name]
        if in_class:
            return ("A-Za-z\\u00aa-\\uffdc" if name == "L" else inner), end
        if char == "P":
            return f"[{inner[1:] if inner[0] == '^' else '^' + inner}]", end
        return f"[{inner}]", end
    if char == "x" and pattern[i + 2 : i + 3] == "{":
        end = pattern.index("}", i)
        return re.escape(chr(int(pattern[i + 3 : end], 16))), end + 1
    if char == "Q":
        end = pattern.find("\\E", i)
        text = pattern[i + 2 : end if end >= 0 else len(pattern)]
        return re.escape(text), (end + 2 if end >= 0 else len(pattern))
    if char.isdigit() and char != "0":
        raise ValueError(f"error parsing regexp: invalid escape sequence: `\\{char}`")
    return pattern[i : i + 2], i + 2


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled. Raises ValueError for a bad one."""
    try:
        return re.compile(translate(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"error parsing regexp: {_said(str(error), pattern)}") from None


# How our engine words the mistakes, and how RE2 does, with the part of the pattern it points at.
_MISTAKES: Final = (
    (re.compile(r"missing \), unterminated subpattern"), "missing closing ): `{all}`"),
    (re.compile(r"unterminated character set at position (\d+)"), "missing closing ]: `{rest}`"),
    (re.compile(r"nothing to repeat at position (\d+)"), "missing argument to repetition operator: `{one}`"),
    (re.compile(r"bad escape \(end of pattern\)"), "trailing backslash at end of expression: ``"),
)


def _said(text: str, pattern: str) -> str:
    for mistake, words in _MISTAKES:
        found = mistake.search(text)
        if found is not None:
            at = int(found[1]) if found.groups() else 0
            return words.format(all=pattern, rest=pattern[at:], one=pattern[at : at + 1])
    return f"{text}: `{pattern}`"


def compiled(pattern: str) -> re.Pattern[str]:
    """As compile_pattern, for use in an expression: raises EvalError."""
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise EvalError(str(error)) from None
