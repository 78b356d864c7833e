"""JSON: fast both ways; a syntax error is worded as the server words it."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode_json(value: Any) -> bytes:
    """Compact JSON."""
    return orjson.dumps(value)


def decode_json(data: bytes | str) -> Any:
    """Any JSON document. Raises ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        return _decode_slowly(text)


def _decode_slowly(text: str) -> Any:
    """What orjson refuses: mostly errors, to be worded; also lone surrogates and NUL-free oddities."""
    try:
        return _scrubbed(json.loads(text, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise ValueError(_words(text, error)) from None
    except RecursionError:
        raise ValueError("exceeded max depth") from None


def _scrubbed(value: Any) -> Any:
    """Halves of surrogate pairs are no characters: the server reads U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(one) for key, one in value.items()}
    return [_scrubbed(one) for one in value] if isinstance(value, list) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"invalid character '{name[0]}' looking for beginning of value")


# The decoder's words for what it expected → the server's words for where it was.
_PLACES = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Extra data": "after top-level value",
    "Invalid control character at": "in string literal",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
}


def _words(text: str, error: json.JSONDecodeError) -> str:
    position = error.pos
    literal = _broken_literal(text, position) if error.msg == "Expecting value" else ""
    if literal:
        return literal
    if error.msg == "Illegal trailing comma before end of object":
        position, place = _next(text, position + 1), "looking for beginning of object key string"
    elif error.msg == "Expecting ',' delimiter":
        place = f"after {'array element' if _inside_array(text, position) else 'object key:value pair'}"
    elif error.msg.startswith("Unterminated string"):
        return "unexpected end of JSON input"
    elif error.msg.startswith("Invalid \\escape"):
        position, place = position + 1, _PLACES["Invalid \\escape"]
    else:
        place = _PLACES.get(error.msg, "looking for beginning of value")
    if position >= len(text.rstrip()):
        return "unexpected end of JSON input"
    return f"invalid character {_quoted(text[position])} {place}"


def _broken_literal(text: str, position: int) -> str:
    """The words for a misspelt true, false or null; empty for anything else."""
    for literal in ("true", "false", "null"):
        if text[position : position + 1] != literal[0]:
            continue
        for i, expected in enumerate(literal):
            found = text[position + i : position + i + 1]
            if not found:
                return "unexpected end of JSON input"
            if found != expected:
                return f"invalid character {_quoted(found)} in literal {literal} (expecting '{expected}')"
    return ""


def _next(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _quoted(char: str) -> str:
    special = {"'": "'\\''", '"': "'\"'", "\n": "'\\n'", "\t": "'\\t'", "\r": "'\\r'", "\x00": "'\\x00'"}
    return special.get(char, f"'{char}'")


def _inside_array(text: str, position: int) -> bool:
    """Is the innermost bracket still open at `position` a square one?"""
    stack: list[str] = []
    in_string = escaped = False
    for char in text[:position]:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            stack.append(char)
        elif char in "]}" and stack:
            stack.pop()
    return bool(stack) and stack[-1] == "["
