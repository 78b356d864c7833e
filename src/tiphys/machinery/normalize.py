"""The normal form of an object: what the API server answers for what a client wrote.

    {"kind": …, "metadata": {…}, "spec": {"replicas": 0, "paused": false, "template": null, "x": 1}}
      └─ in the server's own order          kept: zero ≠ absent  dropped       {"metadata": {}, "spec": {…}}   dropped

A walker compiled once a type: unknown fields go, empty optional fields go, fields that are always there come, maps are
sorted, quantities canonical, times whole seconds in UTC. Wrong types raise `DecodeError`, worded as the server words
them. Source: observed behaviour of the v1.36 API server; shapes from `tiphys.machinery.schema`.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from tiphys.machinery.field import quote
from tiphys.machinery.quantity import canonical
from tiphys.machinery.schema import FieldSchema, TypeSchema
from tiphys.machinery.time import format_micro_time, format_time, parse_rfc3339

Object = dict[str, Any]
Convert = Callable[[Any], Any]

_DROP: Final = object()
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
# In another time zone; never in more or fewer than six digits.
_MICRO_ELSEWHERE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d", re.ASCII)
_RANGES: Final = {"i": 2**31, "l": 2**63}
_GO_TYPES: Final = {
    "s": "string",
    "i": "int32",
    "l": "int64",
    "b": "bool",
    "f": "float64",
    "y": "[]uint8",
    "x": "int32",
}
_BASE64_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")


# JSON's types as the server names what it has already decoded.
_CONVERTED: Final = {"number": "int64", "object": "map", "array": "slice"}


class DecodeError(ValueError):
    """A value that does not fit its type.

    `converted` is how the server words it for a document that came out of a strategic merge patch.
    """

    def __init__(self, text: str, converted: str = "") -> None:
        super().__init__(text)
        self.converted = converted or text


class _MismatchError(Exception):
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


def _wrong(value: Any, wanted: str, *, own: bool = False) -> _MismatchError:
    return _MismatchError(json_type(value), wanted, own=own, fraction=type(value) is float)


def normalize(obj: Object, schema: TypeSchema, like: Object | None = None, *, checked: bool = False) -> Object:
    """The normal form of an object; the input is left alone (values are shared where they did not change).

    `like` is an object in normal form, mostly the version before: what `obj` shares with it is taken as it is, so that
    a write costs what it changes. `checked`: all types are right, so what is equal may be taken too (without, `true`
    must not pass for 1). Raises DecodeError.
    """
    if like is None or schema.custom:
        return _run(_walker(schema), obj)
    try:
        return _changed(obj, schema, like, checked, LEVELS)
    except _MismatchError:
        return _run(_walker(schema), obj)  # which of several errors is told depends on the order of the walk


LEVELS: Final = 2  # spec and status, and their fields: comparing deeper costs more than it saves


def _changed(obj: Object, schema: TypeSchema, like: Object, checked: bool, levels: int) -> Object:
    ready: Object = {}
    rest: Object = {}
    for name, found in obj.items():
        before = like.get(name)
        if before is not None and (found is before or (checked and found and found == before)):
            ready[name] = before
        elif levels > 1 and before and type(found) is dict and type(before) is dict:
            one = schema.fields.get(name)
            if one is not None and one.kind == "@" and one.type is not None:
                ready[name] = _changed(found, one.type, before, checked, levels - 1)
            else:
                rest[name] = found
        else:
            rest[name] = found
    done: Object = _walker(schema)(rest)
    if not ready:
        return done
    done.update(ready)
    return {name: done[name] for name in (*_KIND_FIELDS, *schema.fields) if name in done}


def normalize_strictly(obj: Object, schema: TypeSchema, like: Object | None = None) -> tuple[Object, bool]:
    """As `normalize`, and whether the object may have had fields that its type does not have.

    False is certain; True asks for `codec.strict_problems`, which names them.
    """
    before = _unknown.count
    out = normalize(obj, schema, like)
    return out, schema.custom or _unknown.count != before


class _Unknown:
    """Counts meetings with unknown fields; it only grows, so that another thread can at worst cause a second look."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


_unknown: Final = _Unknown()
_KIND_FIELDS: Final = ("kind", "apiVersion")


def decoded(obj: Object, schema: TypeSchema) -> Object:
    """The form between decoding and storing: as `normalize`, but a list that is always there may be `[]`.

    The stored form has null for it. Field ownership tells the two apart (`f:drivers` of `drivers: []`).
    """
    return _run(_walker(schema, "decoded"), obj)


def _run(walker: Convert, obj: Object) -> Object:
    try:
        out: Object = walker(obj)
    except _MismatchError as error:
        raise DecodeError(str(error), error.converted) from None
    return out


def zero(schema: TypeSchema) -> Object:
    """The normal form of an empty object."""
    return normalize({}, schema)


_STORED: Final = "stored"


def _walker(schema: TypeSchema, form: str = _STORED) -> Convert:
    """The compiled walker of a struct."""
    walker: Convert | None = schema.compiled.get(form)
    if walker is None:
        walker = schema.compiled[form] = _compile(schema, form)
    return walker


# How one object is walked: (name, how its value is converted or None when it is absent, how an absent one is made),
# in wire order; and whether the object has fields that the type does not have.
_Plan = tuple[list[tuple[str, Convert | None, Convert | None]], bool]
MAX_PLANS: Final = 128  # a type; objects of one origin have the same fields, a client that tries all sets gains nothing


def _compile(schema: TypeSchema, form: str) -> Convert:
    # A plan a set of fields in their order, made at the first meeting: most fields of a large type are absent.
    plans: dict[tuple[str, ...], _Plan] = {}
    steps: dict[str, tuple[Convert, Convert | None]] = {}
    short = schema.name.rpartition(".")[2]
    is_kind = schema.is_kind

    def make_plan(names: tuple[str, ...]) -> _Plan:
        plan = _plan(schema, form, names, steps)
        if len(plans) < MAX_PLANS:
            plans[names] = plan
        return plan

    def walk(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(value, _go_name(schema.name))
        names = tuple(value)
        plan, unknown = plans.get(names) or make_plan(names)
        if unknown:
            _unknown.count += 1
        out: Object = {}
        if is_kind:
            _copy_kind(value, out, short)
        name = ""
        try:
            for name, convert, absent in plan:
                if convert is not None:
                    found = value[name]
                    if convert is _text and type(found) is str:  # by far the most frequent: without a call
                        if found:
                            out[name] = found
                        continue
                    if found is not None:
                        result = convert(found)
                        if result is not _DROP:
                            out[name] = result
                        continue
                if absent is not None:
                    out[name] = absent(None)
        except _MismatchError as error:
            if not error.struct:
                error.struct, error.wanted = short, _spelled(schema, name, error.wanted)
            embedded = schema.embedded_in.get(name)
            error.path.append(f"{embedded}.{name}" if embedded else name)
            raise
        return out

    return walk


def _plan(
    schema: TypeSchema, form: str, names: tuple[str, ...], steps: dict[str, tuple[Convert, Convert | None]]
) -> _Plan:
    given = frozenset(names)
    plan: list[tuple[str, Convert | None, Convert | None]] = []
    for name, one in schema.fields.items():
        if name not in given and not one.always:
            continue
        step = steps.get(name)
        if step is None:
            step = steps[name] = _field_step(one, form)
        plan.append((name, step[0] if name in given else None, step[1]))
    known = schema.fields.keys() | _KIND_FIELDS if schema.is_kind else schema.fields.keys()
    return plan, bool(given - known)


def _copy_kind(value: Object, out: Object, short: str) -> None:
    for key in _KIND_FIELDS:
        found = value.get(key)
        if found:
            if type(found) is not str:
                error = _wrong(found, "string")
                error.struct, error.path = short, [f"TypeMeta.{key}"]
                raise error
            out[key] = found


def _field_step(one: FieldSchema, form: str) -> tuple[Convert, Convert | None]:
    """(how to convert a present value, how to make an absent one or None when it stays absent)."""
    convert = value_converter(one, form)
    if one.kind in "[{":
        if one.name == "items":
            # A list kind's own list: an empty one that was made stays [].
            return convert, _nothing if one.always else None
        if one.always:
            return (_emptied(convert, None) if form == _STORED else convert), _nothing
        return _emptied(convert, _DROP), None
    if one.kind == "@":
        if one.always and _is_value(one):
            struct = one.type
            assert struct is not None
            return convert, lambda _: zero_of(struct)
        return convert, _nothing if one.always else None
    if one.kind in "tu" or one.kind in "o*":
        return convert, _nothing if one.always else None
    if one.kind == "q":
        return convert, (lambda _: "0") if one.always else None
    if one.always:
        return convert, _nothing if one.pointer else _zeros[one.kind]
    if one.pointer or one.kind == "x":
        return convert, None
    return _text if one.kind == "s" else _non_zero(convert), None


def zero_of(schema: TypeSchema) -> Object:
    out: Object = _walker(schema)({})
    return out


# Structs that are pointers although they are required: null, not {}, when they are missing.
_POINTERS: Final = frozenset({"meta.v1.LabelSelector", "core.v1.LocalObjectReference", "core.v1.SecretReference"})


def _is_value(one: FieldSchema) -> bool:
    return one.value or (one.required and one.type_name not in _POINTERS)


def _nothing(_: Any) -> None:
    return None


_zeros: Final[dict[str, Convert]] = {
    "s": lambda _: "",
    "y": lambda _: None,
    "i": lambda _: 0,
    "l": lambda _: 0,
    "f": lambda _: 0,
    "b": lambda _: False,
    "x": lambda _: 0,
}


def _emptied(convert: Convert, instead: Any) -> Convert:
    def step(value: Any) -> Any:
        return convert(value) or instead

    return step


def _non_zero(convert: Convert) -> Convert:
    def step(value: Any) -> Any:
        return convert(value) or _DROP

    return step


def value_converter(one: FieldSchema, form: str) -> Convert:
    """How a present, non-null value of this shape is converted."""
    kind = one.kind
    if kind == "@":
        return _struct(one, form)
    if kind == "[":
        assert one.items is not None
        return _list(one.items, form)
    if kind == "{":
        assert one.items is not None
        return _map(one.items, form)
    if kind == "*":
        return _special(one, form)
    return _SCALARS[kind]


def _struct(one: FieldSchema, form: str) -> Convert:
    assert one.type is not None
    return _walker(one.type, form)


def null_of(one: FieldSchema) -> Any:
    """What null becomes as a list's item or a map's value."""
    if one.kind == "@":
        assert one.type is not None
        return zero_of(one.type)
    if one.kind == "q":
        return "0"
    if one.kind == "y":
        return ""
    make = _zeros.get(one.kind)
    return make(None) if make is not None else None


def _list(items: FieldSchema, form: str) -> Convert:
    convert = value_converter(items, form)

    def step(value: Any) -> Any:
        if type(value) is not list:
            raise _wrong(value, f"[]{_go_type(items)}")
        return [convert(one) if one is not None else null_of(items) for one in value]

    return step


def _map(items: FieldSchema, form: str) -> Convert:
    convert = value_converter(items, form)
    plain = items.kind == "s"
    text = {str}

    def step(value: Any) -> Any:
        if type(value) is not dict:
            raise _wrong(value, f"map[string]{_go_type(items)}")
        if plain and set(map(type, value.values())) <= text:
            return dict(value) if len(value) < 2 else dict(sorted(value.items()))
        keys = value if len(value) < 2 else sorted(value)
        return {key: convert(found) if (found := value[key]) is not None else null_of(items) for key in keys}

    return step


def _special(one: FieldSchema, form: str) -> Convert:
    """Any JSON; but a JSON schema's parts that may be a schema or something else are normal as schemas."""
    if not one.type_name or one.resolve is None:
        return lambda value: value
    resolve, boolean = one.resolve, one.type_name.endswith("OrBool")
    listed = one.type_name.endswith("OrArray")

    def step(value: Any) -> Any:
        if type(value) is dict:
            return _walker(resolve("apiextensions.v1.JSONSchemaProps"), form)(value)
        if boolean and type(value) is not bool:
            raise DecodeError("boolean or JSON schema expected")
        return _DROP if listed and type(value) is not list else value

    return step


def _string(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "string")
    return value


def _text(value: Any) -> Any:
    """A string that is left out when it is empty."""
    if type(value) is not str:
        raise _wrong(value, "string")
    return value or _DROP


def _integer(kind: str) -> Convert:
    bound = _RANGES[kind]
    go_type = _GO_TYPES[kind]

    def step(value: Any) -> Any:
        if type(value) is int and -bound <= value < bound:
            return value
        if type(value) in {int, float}:
            raise _MismatchError(f"number {_number(value)}", go_type, fraction=type(value) is float)
        raise _wrong(value, go_type)

    return step


def _boolean(value: Any) -> Any:
    if type(value) is not bool:
        raise _wrong(value, "bool")
    return value


def _float(value: Any) -> Any:
    if type(value) is int:
        return value
    if type(value) is not float:
        raise _wrong(value, "float64")
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def _int_or_string(value: Any) -> Any:
    try:
        return value if type(value) is str else _integer("i")(value)
    except _MismatchError as error:
        error.own = True
        raise


def _quantity(value: Any) -> Any:
    if type(value) not in {str, int, float}:
        raise DecodeError(_QUANTITY_RULE)
    try:
        return canonical(value)
    except ValueError as error:
        raise DecodeError(str(error)) from None


_QUANTITY_RULE: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def _time(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "string", own=True)
    if _TIME.fullmatch(value) and value != "0001-01-01T00:00:00Z":
        return value
    try:
        at = parse_rfc3339(value)
    except ValueError:
        raise DecodeError(_time_error(value, "2006-01-02T15:04:05Z07:00")) from None
    return None if at.year == 1 else format_time(at)


def _micro_time(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "string", own=True)
    if _MICRO.fullmatch(value):
        return value
    if _MICRO_ELSEWHERE.fullmatch(value):
        with suppress(ValueError):
            return format_micro_time(parse_rfc3339(value))
    raise DecodeError(_time_error(value, "2006-01-02T15:04:05.000000Z07:00", _MICRO_PARTS))


# The parts of a layout with the text each must match, for the message that says where a time stops making sense.
_LAYOUT_PARTS: Final = (
    ("2006", r"\d{4}"),
    ("-", "-"),
    ("01", r"\d\d"),
    ("-", "-"),
    ("02", r"\d\d"),
    ("T", "T"),
    ("15", r"\d\d"),
    (":", ":"),
    ("04", r"\d\d"),
    (":", ":"),
    ("05", r"\d\d"),
    ("Z07:00", r"Z|[+-]\d\d:\d\d"),
)


_MICRO_PARTS: Final = (*_LAYOUT_PARTS[:-1], (".000000", r"\.\d{6}"), _LAYOUT_PARTS[-1])


def _time_error(text: str, layout: str, parts: Sequence[tuple[str, str]] = _LAYOUT_PARTS) -> str:
    """The words for a text that is no time: which part of the layout did not fit what was left."""
    position = 0
    for part, pattern in parts:
        match = re.compile(pattern, re.ASCII).match(text, position)
        if match is None:
            return (
                f"parsing time {quote(text)} as {quote(layout)}: cannot parse {quote(text[position:])} as {quote(part)}"
            )
        position = match.end()
    if position < len(text):
        return f"parsing time {quote(text)}: extra text: {quote(text[position:])}"
    return f"parsing time {quote(text)}: out of range"


def _bytes(value: Any) -> Any:
    if type(value) is not str:
        raise _wrong(value, "[]uint8")
    try:
        raw = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return _lenient_bytes(value)
    return value if len(value) % 4 == 0 and value.isascii() else b64encode(raw).decode()


def _lenient_bytes(value: str) -> str:
    """Line breaks are allowed; anything else is an error at a place."""
    plain = value.replace("\r", "").replace("\n", "")
    if plain != value:
        try:
            return b64encode(b64decode(plain, validate=True)).decode()
        except (binascii.Error, ValueError):
            pass
    wrong = next((i for i, char in enumerate(value) if char not in _BASE64_ALPHABET), None)
    if wrong is None:
        padding = value.find("=")
        wrong = padding if padding >= 0 and padding % 4 < 2 else len(value) // 4 * 4 if padding < 0 else padding + 1
    problem = f"illegal base64 data at input byte {wrong}"
    raise DecodeError(problem, f"error decoding from json: {problem}")


def _object(value: Any) -> Any:
    return value


_SCALARS: Final[dict[str, Convert]] = {
    "s": _string,
    "i": _integer("i"),
    "l": _integer("l"),
    "b": _boolean,
    "f": _float,
    "x": _int_or_string,
    "q": _quantity,
    "t": _time,
    "u": _micro_time,
    "y": _bytes,
    "o": _object,
}


def json_type(value: Any) -> str:
    """A decoded value's JSON type, by the name that messages have for it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "array" if isinstance(value, list) else "object"


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else repr(value)


def _spelled(schema: TypeSchema, name: str, wanted: str) -> str:
    """`wanted`, the type of a field or of something in it, by the name that the field's declaration gives it."""
    spelled = schema.type_names.get(name)
    if spelled is None:
        return wanted
    whole = _go_type(schema.fields[name])
    while whole != wanted:
        prefix = "[]" if whole.startswith("[]") else "map[string]"
        if not whole.startswith(prefix) or not spelled.startswith(("[]", "map[")):
            return wanted
        whole = whole.removeprefix(prefix)
        spelled = spelled.removeprefix("[]") if spelled.startswith("[]") else spelled.partition("]")[2]
    return spelled


def _go_name(name: str) -> str:
    _, _, rest = name.partition(".")
    return rest


def _go_type(one: FieldSchema) -> str:
    """The server's name of a value's type, as its messages have it."""
    if one.kind == "@":
        return _go_name(one.type_name)
    if one.kind == "[":
        assert one.items is not None
        return f"[]{_go_type(one.items)}"
    if one.kind == "{":
        assert one.items is not None
        return f"map[string]{_go_type(one.items)}"
    return {"q": "resource.Quantity", "x": "intstr.IntOrString", "t": "v1.Time", "u": "v1.MicroTime"}.get(
        one.kind, _GO_TYPES.get(one.kind, "runtime.RawExtension")
    )
