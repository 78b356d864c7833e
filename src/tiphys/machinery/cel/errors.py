"""What can go wrong with an expression."""

from __future__ import annotations


class CelSyntaxError(ValueError):
    """The text is no expression, or its types do not fit. The message points to the place, as cel-go writes it."""

    def said(self) -> str:
        """The message with what failed before it."""
        return f"compilation failed: {self}"


class CelProgramError(CelSyntaxError):
    """The expression is well formed but can never be evaluated: `int('a')`."""

    def said(self) -> str:
        return f"program instantiation failed: {self}"


class EvalError(Exception):
    """Evaluation failed: `no such key: a`, `division by zero`, `index out of bounds: 3`, …"""


class CostError(EvalError):
    """Evaluation was given up because it cost more than it may."""


def located(source: str, problems: list[tuple[int, str]]) -> str:
    """Problems with their places: `ERROR: <input>:1:6: message`, the line, and a pointer under it."""
    parts = []
    for at, message in problems:
        before = source[:at]
        line = before.count("\n") + 1
        column = at - (before.rfind("\n") + 1)
        if not source:
            parts.append(f"ERROR: <input>:1:0: {message}")
            continue
        text = source.split("\n")[line - 1].replace("\t", " ")
        pointer = "".join("．" if ord(char) > 0x7F else "." for char in text[:column])
        pointer += "＾" if column < len(text) and ord(text[column]) > 0x7F else "^"
        parts.append(f"ERROR: <input>:{line}:{column + 1}: {message}\n | {text}\n | {pointer}")
    return "\n".join(parts)
