"""The normal form of an object: what the API server answers for what a client wrote.

    {"kind": …, "metadata": {…}, "spec": {"replicas": 0, "paused": false, "template": null, "x": 1}}
      └─ in the server's own order          kept: zero ≠ absent  dropped       {"metadata": {}, "spec": {…}}   dropped

A walker compiled once a type: unknown fields go, empty optional fields go, fields that are always there come, maps are
sorted, quantities canonical, times whole seconds in UTC. Wrong types raise `DecodeError`, worded as the server words
them. Source: observed behaviour of the v1.36 API server; shapes from `tiphys.machinery.schema`.
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.machinery.misfit import DecodeError, MismatchError, go_name, go_type, spelled, wrong
from tiphys.machinery.scalars import DROP, SCALARS, Convert, optional_text
from tiphys.machinery.schema import FieldSchema, TypeSchema

Object = dict[str, Any]


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
    except MismatchError:
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
    except MismatchError as error:
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
            raise wrong(value, go_name(schema.name))
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
                    if convert is optional_text and type(found) is str:  # by far the most frequent: without a call
                        if found:
                            out[name] = found
                        continue
                    if found is not None:
                        result = convert(found)
                        if result is not DROP:
                            out[name] = result
                        continue
                if absent is not None:
                    out[name] = absent(None)
        except MismatchError as error:
            if not error.struct:
                error.struct, error.wanted = short, spelled(schema, name, error.wanted)
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
                error = wrong(found, "string")
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
        return _emptied(convert, DROP), None
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
    return optional_text if one.kind == "s" else _non_zero(convert), None


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
        return convert(value) or DROP

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
    return SCALARS[kind]


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
            raise wrong(value, f"[]{go_type(items)}")
        return [convert(one) if one is not None else null_of(items) for one in value]

    return step


def _map(items: FieldSchema, form: str) -> Convert:
    convert = value_converter(items, form)
    plain = items.kind == "s"
    text = {str}

    def step(value: Any) -> Any:
        if type(value) is not dict:
            raise wrong(value, f"map[string]{go_type(items)}")
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
        return DROP if listed and type(value) is not list else value

    return step
