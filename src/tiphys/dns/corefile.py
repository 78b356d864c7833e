"""Reads a Corefile: server blocks, each a list of directives with arguments and perhaps a block of their own.

    .:53 example.org {
        forward . /etc/resolv.conf {
            max_concurrent 1000
        }
    }

Comments begin with #, double quotes hold words together, {$NAME} is an environment variable.
https://coredns.io/manual/configuration/
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

DEFAULT_PORT: Final = 53


class CorefileError(ValueError):
    """The file cannot be used; the text begins with file and line, as CoreDNS words it."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One line and the lines of its block."""

    name: str
    arguments: tuple[str, ...]
    block: tuple[Directive, ...]
    place: str  # file:line

    def error(self, text: str) -> CorefileError:
        return CorefileError(f"{self.place} - Error during parsing: {text}")


class Zone(NamedTuple):
    """What a server block is for: a zone (lower case, final dot) on a port."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class ServerBlock:
    """One server block."""

    zones: tuple[Zone, ...]
    directives: tuple[Directive, ...]


class _Token(NamedTuple):
    text: str
    line: int


def parse(text: str, name: str = "Corefile", environment: Mapping[str, str] | None = None) -> tuple[ServerBlock, ...]:
    """Read a Corefile. Raises CorefileError."""
    values = os.environ if environment is None else environment
    text = re.sub(r"\{\$(\w+)\}|\{%(\w+)%\}", lambda found: values.get(found[1] or found[2], ""), text)
    tokens = _tokens(text, name)
    blocks: list[ServerBlock] = []
    at = 0
    while at < len(tokens):
        keys: list[_Token] = []
        while at < len(tokens) and tokens[at].text != "{":
            keys.append(tokens[at])
            at += 1
        if at == len(tokens):
            raise CorefileError(f"{name}:{keys[-1].line} - Error during parsing: Unexpected EOF: no '{{' after a zone")
        zones = tuple(_zone(key, name) for key in keys for key in _split(key))
        directives, at = _block(tokens, at + 1, name, tokens[at].line)
        blocks.append(ServerBlock(zones, directives))
    return tuple(blocks)


def zone_name(text: str) -> str:
    """A zone as it is compared: lower case, final dot; a network in CIDR form becomes its reverse zone."""
    text = text.lower()
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)\.(\d+)/(8|16|24)", text)
    if found:
        parts = [found[1], found[2], found[3]][: int(found[5]) // 8]
        return ".".join(reversed(parts)) + ".in-addr.arpa."
    return text if text.endswith(".") else text + "."


def _split(key: _Token) -> list[_Token]:
    return [_Token(part, key.line) for part in key.text.split(",") if part]


def _zone(key: _Token, file: str) -> Zone:
    text = key.text.removeprefix("dns://")
    if "://" in text:
        raise CorefileError(
            f"{file}:{key.line} - Error during parsing: transport of {text!r} is not served, only dns://"
        )
    name, colon, port = text.rpartition(":")
    if not colon:
        return Zone(zone_name(text), DEFAULT_PORT)
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise CorefileError(f"{file}:{key.line} - Error during parsing: {text!r} has no valid port")
    return Zone(zone_name(name or "."), int(port))


def _tokens(text: str, file: str) -> list[_Token]:
    tokens: list[_Token] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.count('"') % 2:
            raise CorefileError(f"{file}:{number} - Error during parsing: a quote is not closed")
        for found in re.finditer(r'"((?:[^"\\]|\\.)*)"|(#.*)|(\S+)', line):
            if found[2] is not None:
                break
            tokens.append(_Token(found[3] if found[3] is not None else found[1].replace('\\"', '"'), number))
    return tokens


def _block(tokens: list[_Token], at: int, file: str, opened: int) -> tuple[tuple[Directive, ...], int]:
    """The directives up to the closing brace, and where the tokens after it begin."""
    directives: list[Directive] = []
    while True:
        if at >= len(tokens):
            raise CorefileError(f"{file}:{opened} - Error during parsing: Unexpected EOF: '{{' is not closed")
        first = tokens[at]
        if first.text == "}":
            return tuple(directives), at + 1
        at += 1
        arguments: list[str] = []
        block: tuple[Directive, ...] = ()
        while at < len(tokens) and tokens[at].line == first.line and tokens[at].text != "}":
            if tokens[at].text == "{":
                block, at = _block(tokens, at + 1, file, tokens[at].line)
                break
            arguments.append(tokens[at].text)
            at += 1
        directives.append(Directive(first.text, tuple(arguments), block, f"{file}:{first.line}"))
