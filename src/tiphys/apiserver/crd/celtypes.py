"""From schemas to CEL: the static type of a value, and how JSON becomes values of that type.

    integer int   number double   boolean bool   string string (date-time timestamp, duration duration, byte bytes)
    array list    object with properties: object; with additionalProperties: map   int-or-string, unknown: dyn

Fields are named as expressions name them: `a-b` is `a__dash__b`, `namespace` is `__namespace__`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Final

from tiphys.apiserver.crd.structural import Structural
from tiphys.machinery.cel import times
from tiphys.machinery.cel.parser import RESERVED
from tiphys.machinery.cel.types import BOOL, DOUBLE, DYN, INT, STRING, Type, list_of, map_of
from tiphys.machinery.cel.values import MapList, SetList

Convert = Callable[[Any], Any]
_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_WORDS: Final = RESERVED | {"true", "false", "null", "in"}
_ESCAPES: Final = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))


def escaped(name: str) -> str | None:
    """The name of a field in an expression; None when it has none."""
    if name in _WORDS:
        return f"__{name}__"
    for char, word in _ESCAPES:
        name = name.replace(char, word)
    return name if _NAME.fullmatch(name) else None


# The largest request, without the braces or quotes around everything.
MOST_BYTES: Final = 3 * 1024 * 1024 - 2
_META_FIELDS: Final = dict.fromkeys(("name", "generateName"), Type("string", size=MOST_BYTES))


def cel_type(node: Structural, name: str = "selfType", *, resource: bool = False) -> Type:
    """The type of a schema's values. `resource`: apiVersion, kind and the names in metadata can be read too."""
    if node.int_or_string:
        return DYN
    match node.type:
        case "array":
            item = cel_type(node.items, f"{name}.@idx") if node.items is not None else DYN
            return list_of(item, most_items(node))
        case "object":
            return _object_type(node, name, resource or node.embedded)
        case "string":
            return _string_type(node)
        case "integer":
            return INT
        case "number":
            return DOUBLE
        case "boolean":
            return BOOL
    return DYN


def _object_type(node: Structural, name: str, resource: bool) -> Type:
    if node.additional is not None and not node.properties:
        return map_of(STRING, cel_type(node.additional, f"{name}.@elem"), most_properties(node))
    fields = {}
    for key, one in node.properties.items():
        known = escaped(key)
        if known is not None and not (resource and key == "metadata"):
            fields[known] = cel_type(one, f"{name}.{key}")
    if resource:
        fields["apiVersion"] = fields["kind"] = Type("string", size=MOST_BYTES)
        fields["metadata"] = Type("object", name=f"{name}.metadata", fields=_META_FIELDS)
    if not fields and (node.preserve or node.any_additional):
        return DYN if node.any_additional else Type("object", name=name)
    return Type("object", name=name, fields=fields)


def _string_type(node: Structural) -> Type:
    """Texts, whose characters may have four bytes each; where nothing is said a whole request."""
    raw, form = node.raw, node.raw.get("format") or ""
    kind, size = _FORMATS.get(form, ("string", None))
    if kind == "bytes":
        size = raw.get("maxLength")
    elif size is None and raw.get("enum"):
        size = max((len(one) for one in raw["enum"] if isinstance(one, str)), default=0)
    elif size is None and raw.get("maxLength") is not None:
        size = 4 * raw["maxLength"]
    return Type(kind, size=MOST_BYTES if size is None else size)


_FORMATS: Final[dict[str, tuple[str, int | None]]] = {
    "date-time": ("timestamp", 37),
    "date": ("timestamp", 12),
    "duration": ("duration", 32),
    "byte": ("bytes", None),
}
_LEAST_TEXT: Final = {"date-time": 21, "date": 12, "duration": 4}


def most_items(node: Structural) -> int:
    """How many items a list may have: as the schema says, or as fit into a request."""
    most = node.raw.get("maxItems")
    if most is not None:
        return int(most)
    return MOST_BYTES if node.items is None else most_in_request(node.items)


def most_in_request(node: Structural) -> int:
    """How many values of a schema a request has room for."""
    return MOST_BYTES // (least_bytes(node) + 1)


def most_properties(node: Structural) -> int:
    """How many entries a map may have: as the schema says, or as fit into a request."""
    most = node.raw.get("maxProperties")
    if most is not None:
        return int(most)
    least = 1 if node.additional is None else least_bytes(node.additional)
    return MOST_BYTES // (least + 6)


def least_bytes(node: Structural) -> int:
    """The fewest bytes a value has as JSON."""
    match node.type:
        case "string":
            return _LEAST_TEXT.get(node.raw.get("format") or "", 2)
        case "boolean":
            return 4
        case "array":
            return 2
        case "object":
            required = [name for name in node.raw.get("required") or () if name in node.properties]
            parts = [(name, node.properties[name]) for name in required]
            return 2 + sum(len(name) + least_bytes(one) + 4 for name, one in parts if not one.defaulted)
    return 1


def converter(node: Structural) -> Convert | None:
    """How a JSON value becomes a CEL value; None when it is one already."""
    if node.int_or_string:
        return None
    match node.type:
        case "array":
            return _list_converter(node)
        case "object":
            return _object_converter(node)
        case "number":
            return lambda value: float(value) if type(value) is int else value
        case "string":
            return _STRINGS.get(node.raw.get("format", ""))
    return None


def _guarded(convert: Convert) -> Convert:
    """A text that is not of its format stays a text: validation has said so."""

    def step(value: Any) -> Any:
        try:
            return convert(value)
        except Exception:  # whatever is wrong with it is told elsewhere
            return value

    return step


_STRINGS: Final[dict[str, Convert]] = {
    "date-time": _guarded(times.timestamp),
    "date": _guarded(lambda value: times.timestamp(f"{value}T00:00:00Z")),
    "duration": _guarded(times.duration),
    "byte": _guarded(lambda value: base64.b64decode(value, validate=True)),
}


def _list_converter(node: Structural) -> Convert | None:
    item = converter(node.items) if node.items is not None else None
    kind, keys = node.list_type, node.list_map_keys
    if item is None and kind not in ("set", "map"):
        return None

    def step(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        items = value if item is None else [item(one) for one in value]
        return SetList(items) if kind == "set" else MapList.of(items, keys) if kind == "map" else items

    return step


def _object_converter(node: Structural) -> Convert | None:
    special: dict[str, tuple[str, Convert | None]] = {}
    for key, one in node.properties.items():
        name, convert = escaped(key), converter(one)
        if convert is not None or name != key:
            special[key] = (name or key, convert)
    rest = converter(node.additional) if node.additional is not None else None
    if not special and rest is None:
        return None

    def step(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out = {}
        for key, found in value.items():
            name, convert = special.get(key) or (key, rest if key not in node.properties else None)
            out[name] = found if convert is None or found is None else convert(found)
        return out

    return step
