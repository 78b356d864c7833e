"""Dockerfiles: the text taken apart into instructions. Nothing is executed here.

https://docs.docker.com/reference/dockerfile/. Here-documents and the frontend's own extensions
(`RUN --mount`) are refused with the line they are on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

KNOWN: Final = (
    {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"}
    | {"ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
)  # fmt: skip
_VARIABLE: Final = re.compile(r"\\\$|\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")
_WORD: Final = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""")


class DockerfileError(Exception):
    """A line that cannot be understood; the text names it."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals, its flags (`--from=x`), and the rest as text."""

    name: str
    flags: Mapping[str, str]
    text: str
    line: int

    def words(self) -> list[str]:
        """The text at spaces, quotes taken off; a JSON array gives its elements."""
        array = self.array()
        return array if array is not None else split_words(self.text)

    def array(self) -> list[str] | None:
        """The elements where the text is a JSON array of strings (the exec form), else None."""
        if not self.text.startswith("["):
            return None
        try:
            return msgspec.json.decode(self.text.encode(), type=list[str])
        except msgspec.MsgspecError:
            return None


def parse(text: str) -> list[Instruction]:
    """The instructions in order; DockerfileError."""
    instructions = []
    for number, line in _logical_lines(text):
        name, _, rest = line.partition(" ")
        name = name.upper()
        if name not in KNOWN:
            raise DockerfileError(f"dockerfile parse error on line {number}: unknown instruction: {name}")
        flags: dict[str, str] = {}
        rest = rest.strip()
        while name in ("ADD", "COPY", "FROM", "RUN", "HEALTHCHECK") and rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            key, _, value = flag[2:].partition("=")
            flags[key] = value
            rest = rest.strip()
        if not rest:
            raise DockerfileError(f"dockerfile parse error on line {number}: {name} requires at least one argument")
        if name in ("ADD", "COPY", "RUN") and re.search(r"<<-?['\"]?\w", rest):
            raise DockerfileError(f"line {number}: here-documents are not supported")
        instructions.append(Instruction(name, flags, rest, number))
    if not any(instruction.name == "FROM" for instruction in instructions):
        raise DockerfileError("dockerfile has no build stage: there is no FROM instruction")
    return instructions


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with continuations joined and comments removed, with the number of their first line."""
    lines: list[tuple[int, str]] = []
    escape = "`" if re.match(r"\A#\s*escape\s*=\s*`", text) else "\\"
    current, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and current):
            continue
        if not current:
            first = number
        if stripped.endswith(escape):
            current += stripped[:-1] + " "
            continue
        current += stripped
        if current.strip():
            lines.append((first, current.strip()))
        current = ""
    if current.strip():
        lines.append((first, current.strip()))
    return lines


def split_words(text: str) -> list[str]:
    """Words at spaces; quotes group and are taken off."""
    return [_unquote(word) for word in _WORD.findall(text)]


def _unquote(word: str) -> str:
    out = []
    quote = ""
    position = 0
    while position < len(word):
        character = word[position]
        if quote:
            if character == quote:
                quote = ""
            elif character == "\\" and quote == '"' and position + 1 < len(word):
                position += 1
                out.append(word[position])
            else:
                out.append(character)
        elif character in "\"'":
            quote = character
        elif character == "\\" and position + 1 < len(word):
            position += 1
            out.append(word[position])
        else:
            out.append(character)
        position += 1
    return "".join(out)


def pairs(instruction: Instruction) -> list[tuple[str, str]]:
    """`key=value …` of ENV and LABEL; the old form `ENV key the rest`."""
    first = instruction.text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} must have two arguments")
        return [(first[0], first[1])]
    found = []
    for word in split_words(instruction.text):
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"line {instruction.line}: {word!r} is not key=value")
        found.append((key, value))
    return found


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$name`, `${name}`, `${name:-default}` and `${name:+other}` replaced; `\\$` stays a dollar."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "\\$":
            return "$"
        value = values.get(match[1] or match[2], "")
        if match[3] == "-":
            return value or match[4]
        if match[3] == "+":
            return match[4] if value else ""
        return value

    return _VARIABLE.sub(replace, text)


def ignore_rules(text: str) -> list[tuple[re.Pattern[str], bool]]:
    """`.dockerignore`: (pattern, whether it excludes), the last that matches counts."""
    rules = []
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        excludes = not pattern.startswith("!")
        rules.append((_glob(pattern.lstrip("!").strip("/")), excludes))
    return rules


def ignored(path: str, rules: Sequence[tuple[re.Pattern[str], bool]]) -> bool:
    """Whether the file `path` (relative to the context) is left out."""
    verdict = False
    for pattern, excludes in rules:
        if pattern.match(path):
            verdict = excludes
    return verdict


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` within a component, `**` across; what matches a directory matches all below it."""
    out = ""
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            out, position = out + "(?:.*/)?", position + 3
        elif pattern.startswith("**", position):
            out, position = out + ".*", position + 2
        elif pattern[position] == "*":
            out, position = out + "[^/]*", position + 1
        elif pattern[position] == "?":
            out, position = out + "[^/]", position + 1
        else:
            out, position = out + re.escape(pattern[position]), position + 1
    return re.compile(f"{out}(?:/.*)?$")
