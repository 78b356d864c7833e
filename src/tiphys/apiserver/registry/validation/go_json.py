"""What is wrong with text that is no JSON, in the words clients of the API know."""

from __future__ import annotations

import json


def json_error(text: bytes) -> str:
    """The first syntax error of `text`, which must have one."""
    source = text.decode("utf-8", "replace")
    if not source.strip():
        return "unexpected end of JSON input"
    try:
        json.loads(source)
    except json.JSONDecodeError as error:
        if error.pos >= len(source.rstrip()):
            return "unexpected end of JSON input"
        if error.msg == "Extra data":
            return f"invalid character {_char(source[error.pos])} after top-level value"
        return f"invalid character {_char(source[error.pos])} {_place(error.msg)}"
    return ""


def _place(message: str) -> str:
    if message.startswith("Expecting property name"):
        return "looking for beginning of object key string"
    if message.startswith("Expecting ':'"):
        return "after object key"
    if message.startswith("Expecting ','"):
        return "after object key:value pair"
    return "looking for beginning of value"


def _char(char: str) -> str:
    return {"'": "'\\''", '"': "'\"'", "\n": "'\\n'"}.get(char, f"'{char}'")
