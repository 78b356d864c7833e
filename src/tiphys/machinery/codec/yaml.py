"""YAML as the server reads it: YAML 1.1 booleans and octals, times as text, every key as text, keys in order."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NamedTuple

import orjson
import yaml

from tiphys.machinery.field import quote

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Aliases may not blow a small document up beyond this many values.
MAX_DEPTH: Final = 1000
MAX_VALUES: Final = 1_000_000

_BOOLEANS: Final = {
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False),
}
_NULLS: Final = {"", "~", "null", "Null", "NULL"}
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]+|[0-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL: Final = {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", ".nan", ".NaN", ".NAN"}


class Document(NamedTuple):
    """A decoded document and the keys that came twice in it: `line 8: key "port" already set in map`."""

    value: Any
    duplicates: list[str]


class _Loader(_BASE):  # type: ignore[misc]  # the C loader has no types
    """Plain scalars keep their text; `_plain` decides what they are."""


_PLAIN: Final = "!plain"
_MERGE: Final = "tag:yaml.org,2002:merge"
_Loader.yaml_implicit_resolvers = {"<": [(_MERGE, re.compile("^<<$"))], None: [(_PLAIN, re.compile(""))]}


def decode_yaml(data: bytes | str) -> Document:
    """The first document of YAML text (JSON is YAML too). Raises ValueError."""
    try:
        return _decode(data)
    except RecursionError:
        raise _too_deep() from None


def _decode(data: bytes | str) -> Document:
    text = data.encode() if isinstance(data, str) else data
    if text.lstrip().startswith(b"{"):
        value = _unique_json(text)
        if value is not None:
            return Document(value, [])
    try:
        _check_depth(text)
        loader = _Loader(data)
        try:
            node = loader.get_node() if loader.check_node() else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(_words(error)) from None
    builder = _Builder()
    return Document(builder.build(node) if node is not None else None, builder.duplicates)


def _too_deep() -> ValueError:
    return ValueError(f"error converting YAML to JSON: yaml: exceeded max depth of {MAX_DEPTH}")


def _check_depth(text: bytes) -> None:
    """Refuse deep nesting before nodes are made: the library does that by recursion in C, and would end the process.

    Each level needs a bracket, or a column more than the one around it; only where there are many is it counted.
    """
    if text.count(b"[") + text.count(b"{") + max(map(len, text.splitlines()), default=0) <= MAX_DEPTH:
        return
    loader = _Loader(text)
    depth = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _too_deep()
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    finally:
        loader.dispose()


def _unique_json(data: bytes) -> Any:
    """A JSON object, the common case of kubectl; None when it is none, or may have a key twice."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if orjson.dumps(value) != data.strip() and not _keys_are_unique(data):
        return None
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _keys_are_unique(data: bytes) -> bool:
    unique = True

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal unique
        unique = unique and len(dict(pairs)) == len(pairs)

    json.loads(data, object_pairs_hook=check)
    return unique


def _words(error: Exception) -> str:
    """The server's words: it counts lines from 0 for parser errors, from 1 for scanner errors, and shows no line 0."""
    problem = getattr(error, "problem", None) or str(error)
    if isinstance(error, yaml.reader.ReaderError) and "control characters" in problem:
        return "error converting YAML to JSON: yaml: control characters are not allowed"
    line = _line(getattr(error, "problem_mark", None))
    if line:
        line += isinstance(error, yaml.scanner.ScannerError)
    else:
        line = _line(getattr(error, "context_mark", None))
    return f"error converting YAML to JSON: yaml: {f'line {line}: ' if line else ''}{problem}"


def _line(mark: Any) -> int:
    return 0 if mark is None else int(mark.line)


class _Builder:
    """Makes plain JSON values of nodes."""

    def __init__(self) -> None:
        self.duplicates: list[str] = []
        self.count = 0
        self.open: set[int] = set()

    def build(self, node: Any) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            raise ValueError("error converting YAML to JSON: yaml: document contains excessive aliasing")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self.open:
            raise ValueError("error converting YAML to JSON: yaml: anchor value contains itself")
        self.open.add(id(node))
        value = self.mapping(node) if isinstance(node, yaml.MappingNode) else [self.build(item) for item in node.value]
        self.open.discard(id(node))
        return value

    def mapping(self, node: Any) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                self.merge(value_node, merged)
                continue
            key = _key(self.build(key_node))
            if key in out:
                self.duplicates.append(f"line {key_node.start_mark.line + 1}: key {quote(key)} already set in map")
            out[key] = self.build(value_node)
        if merged:
            out = {**merged, **out}
        return dict(sorted(out.items()))

    def merge(self, node: Any, into: dict[str, Any]) -> None:
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.build(one)
            if not isinstance(value, dict):
                raise ValueError(
                    "error converting YAML to JSON: yaml: map merge requires map or sequence of maps as the value"
                )
            for key, found in value.items():
                into.setdefault(key, found)


def _key(value: Any) -> str:
    """JSON's keys are text: other scalars are written as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise ValueError(f"error converting YAML to JSON: unsupported map key of type: {type(value).__name__}")


def _scalar(node: Any) -> Any:
    """A plain scalar is what it looks like; a quoted or tagged one is text, unless its tag says a number."""
    text: str = node.value
    if node.tag in {_PLAIN, "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"}:
        return _plain(text)
    return None if node.tag == "tag:yaml.org,2002:null" else text


def _plain(text: str) -> Any:
    """What an unquoted scalar is."""
    if text in _NULLS:
        return None
    found = _BOOLEANS.get(text)
    if found is not None:
        return found
    if _INTEGER.fullmatch(text):
        number = _integer(text.replace("_", ""))
        if number is not None:
            return number
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return int(value) if value.is_integer() and abs(value) < 1e21 else value
    if text in _SPECIAL:
        raise ValueError("error converting YAML to JSON: json: unsupported value: " + text)
    return text


def _integer(text: str) -> int | None:
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    try:
        if digits[:2] in {"0b", "0x", "0o"}:
            value = int(digits, 0)
        elif len(digits) > 1 and digits[0] == "0":
            value = int(digits, 8)
        else:
            value = int(digits)
    except ValueError:
        return None
    return -value if sign == "-" else value


class _Dumper(yaml.SafeDumper):
    """Lists indented as the server's YAML has them: not at all; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# YAML 1.1 would read these as times.
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d?-\d\d?(?:[Tt ]|$)", re.ASCII)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text that would read back as something else is quoted; several lines are a block."""
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    try:
        needs_quotes = not isinstance(_plain(text), str) or _TIMESTAMP.match(text) is not None
    except ValueError:
        needs_quotes = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if needs_quotes else None)


_Dumper.add_representer(str, _represent_text)


def encode_yaml(value: Any) -> bytes:
    """A document in the server's style: keys sorted, two spaces, lists not indented, long text folded at 80."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=False, sort_keys=True, allow_unicode=True)
    return text.encode()
