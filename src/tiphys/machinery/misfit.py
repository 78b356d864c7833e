"""How the server words a value that does not fit its type.

    {"replicas": "3"}  →  json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32

`DecodeError` is what callers see; `MismatchError` is on its way out to the struct whose field it is. Source: observed
behaviour of the v1.36 API server.
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.machinery.schema import FieldSchema, TypeSchema

GO_TYPES: Final = {
    "s": "string",
    "i": "int32",
    "l": "int64",
    "b": "bool",
    "f": "float64",
    "y": "[]uint8",
    "x": "int32",
}
# JSON's types as the server names what it has already decoded.
_CONVERTED: Final = {"number": "int64", "object": "map", "array": "slice"}


class DecodeError(ValueError):
    """A value that does not fit its type.

    `converted` is how the server words it for a document that came out of a strategic merge patch.
    """

    def __init__(self, text: str, converted: str = "") -> None:
        super().__init__(text)
        self.converted = converted or text


class MismatchError(Exception):
    """A wrong JSON type, on its way out to the struct whose field it is; `path` grows from the inside."""

    def __init__(self, found: str, wanted: str, *, own: bool = False, fraction: bool = False) -> None:
        self.found = found
        self.fraction = fraction
        self.wanted = wanted
        self.own = own  # a type that decodes itself: times, numbers or texts
        self.struct = ""
        self.path: list[str] = []

    @property
    def converted(self) -> str:
        kind = self.found.partition(" ")[0]
        found = "float64" if self.fraction else _CONVERTED.get(kind, kind)
        if self.own:
            return f"json: cannot unmarshal {self.found} into Go value of type {self.wanted}"
        if self.wanted.startswith("[]"):
            return f"cannot restore slice from {found}"
        if self.wanted.startswith("map["):
            return f"cannot restore map from {found}"
        if kind == "number" and (self.wanted.startswith("int") or (self.wanted == "string" and found == "int64")):
            return f"cannot convert {found} to {self.wanted}"
        return f"cannot restore struct from: {found}" if "." in self.wanted else f"unrecognized type: {self.wanted}"

    def __str__(self) -> str:
        place = f"struct field {self.struct}.{'.'.join(reversed(self.path))}" if self.struct else "value"
        return f"json: cannot unmarshal {self.found} into Go {place} of type {self.wanted}"


def wrong(value: Any, wanted: str, *, own: bool = False) -> MismatchError:
    """The error for a value of another JSON type; `own` when the wanted type decodes itself."""
    return MismatchError(json_type(value), wanted, own=own, fraction=type(value) is float)


def json_type(value: Any) -> str:
    """A decoded value's JSON type, by the name that messages have for it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "object"


def number(value: int | float) -> str:
    """A number as messages show it."""
    return str(value) if isinstance(value, int) else repr(value)


def spelled(schema: TypeSchema, name: str, wanted: str) -> str:
    """`wanted`, the type of a field or of something in it, by the name that the field's declaration gives it."""
    given = schema.type_names.get(name)
    if given is None:
        return wanted
    whole = go_type(schema.fields[name])
    while whole != wanted:
        prefix = "[]" if whole.startswith("[]") else "map[string]"
        if not whole.startswith(prefix) or not given.startswith(("[]", "map[")):
            return wanted
        whole = whole.removeprefix(prefix)
        given = given.removeprefix("[]") if given.startswith("[]") else given.partition("]")[2]
    return given


def go_name(name: str) -> str:
    """The name of a type without its package."""
    _, _, rest = name.partition(".")
    return rest


def go_type(one: FieldSchema) -> str:
    """The server's name of a value's type, as its messages have it."""
    if one.kind == "@":
        return go_name(one.type_name)
    if one.kind == "[":
        assert one.items is not None
        return f"[]{go_type(one.items)}"
    if one.kind == "{":
        assert one.items is not None
        return f"map[string]{go_type(one.items)}"
    return {"q": "resource.Quantity", "x": "intstr.IntOrString", "t": "v1.Time", "u": "v1.MicroTime"}.get(
        one.kind, GO_TYPES.get(one.kind, "runtime.RawExtension")
    )
