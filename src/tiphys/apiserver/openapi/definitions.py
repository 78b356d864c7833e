"""Definitions of every type, as the official OpenAPI v2 document has them.

The `kubernetes-validate` package carries them as JSON Schema with a few mechanical changes, which are undone here:
nullable types, `enum`s of apiVersion and kind, references into another file, Quantity and IntOrString.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import orjson

Object = dict[str, Any]

VERSION: Final = "v1.36.0-local"
QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING: Final = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
# The two defaults of the API that the definitions leave out although merging lists depends on them.
DEFAULTS: Final = {
    "io.k8s.api.core.v1.ContainerPort": {"protocol": "TCP"},
    "io.k8s.api.core.v1.ServicePort": {"protocol": "TCP"},
}
QUANTITY_TEXT: Final = (
    "Quantity is a fixed-point representation of a number. It provides convenient marshaling/unmarshaling in JSON and "
    "YAML, in addition to String() and AsInt64() accessors."
)
INT_OR_STRING_TEXT: Final = (
    "IntOrString is a type that can hold an int32 or a string.  When used in JSON or YAML marshalling and "
    "unmarshalling, it produces or consumes the inner type.  This allows you to have, for example, a JSON field that "
    "can accept a name or number."
)


def load_definitions() -> dict[str, Object]:
    """Every definition by its name ("io.k8s.api.core.v1.Pod"). Takes a few hundred milliseconds; not cached."""
    path = files("kubernetes_validate") / "kubernetes-json-schema" / VERSION / "_definitions.json"
    raw: dict[str, Object] = orjson.loads(path.read_bytes())["$defs"]
    found = {name: _restored(definition) for name, definition in raw.items()}
    found[QUANTITY] = {"description": QUANTITY_TEXT, "type": "string"}
    found[INT_OR_STRING] = {"description": INT_OR_STRING_TEXT, "type": "string", "format": "int-or-string"}
    for name, defaults in DEFAULTS.items():
        for field, value in defaults.items():
            found[name]["properties"][field]["default"] = value
    return found


def _restored(schema: Object) -> Object:
    out: Object = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, list):
            value = next(one for one in value if one != "null")
        elif key == "$ref":
            value = "#/definitions/" + value.rpartition("/")[2]
        elif key == "properties":
            value = {name: _property(name, one) for name, one in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            value = _restored(value)
        out[key] = value
    return out


def _property(name: str, schema: Object) -> Object:
    out = _restored(schema)
    if name in ("apiVersion", "kind"):
        out.pop("enum", None)
    return out


def names_by_kind(definitions: dict[str, Object]) -> dict[tuple[str, str, str], str]:
    """Definition names by (group, version, kind)."""
    found: dict[tuple[str, str, str], str] = {}
    for name, definition in definitions.items():
        for one in definition.get("x-kubernetes-group-version-kind") or ():
            found.setdefault((one["group"], one["version"], one["kind"]), name)
    return found


def references(value: Any) -> set[str]:
    """The definitions a document part refers to directly."""
    found: set[str] = set()
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            for key, inner in one.items():
                if key == "$ref" and isinstance(inner, str):
                    found.add(inner.rpartition("/")[2])
                else:
                    stack.append(inner)
        elif isinstance(one, list):
            stack.extend(one)
    return found


def closure(names: set[str], definitions: dict[str, Object]) -> dict[str, Object]:
    """Definitions of `names` and of everything they refer to, sorted by name."""
    found: dict[str, Object] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in definitions:
            continue
        found[name] = definitions[name]
        waiting.extend(references(definitions[name]))
    return dict(sorted(found.items()))
