"""Validation of a value by its schema, in the words and in the order of upstream's validator.

Order at every value: type, then allOf/anyOf/oneOf/not, text, format, number, list, enum, fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tiphys.apiserver.crd.formats import is_format
from tiphys.machinery import field
from tiphys.machinery.cel.regex import compile_pattern
from tiphys.machinery.field import FieldError, Path

Schema = Mapping[str, Any]
ROOT: Final = Path()
_INTEGER_RANGES: Final = {"int32": 2**31, "uint32": 2**32, "int64": 2**63, "uint64": 2**64}


NEW: Final = object()  # there was nothing here before, or nobody can say what


def schema_errors(value: Any, schema: Schema, path: Path = ROOT, old: Any = NEW) -> list[FieldError]:
    """What is wrong with a value. What has not changed since `old` is let pass, whatever the schema says by now."""
    if old is not NEW and _same(value, old):
        return []
    if value is None and schema.get("nullable"):
        return []
    errors = _type_errors(value, schema, path)
    errors += _combined_errors(value, schema, path)
    if isinstance(value, str):
        errors += _text_errors(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        errors += _number_errors(value, schema, path)
    elif isinstance(value, list):
        errors += _list_errors(value, schema, path, old)
    if schema.get("enum") is not None and not any(_same(value, one) for one in schema["enum"]):
        errors.append(_not_supported(path, value, schema["enum"]))
    if isinstance(value, dict):
        errors += _object_errors(value, schema, path, old)
    return errors


def below(path: Path, errors: list[FieldError]) -> list[FieldError]:
    """Errors found in a value by itself, placed where it stands. Their texts keep the names seen from the value."""
    return [replace(one, field=_under(path, one.field)) for one in errors]


def _under(path: Path, inner: str) -> str:
    if inner == str(ROOT):
        return str(path)
    return f"{path}{inner}" if inner.startswith("[") else f"{path}.{inner}"


def before(old: Any, schema: Schema) -> Callable[[int, Any], Any]:
    """What an item of a list was before: in lists of type map the one with the same keys, else NEW."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    if not isinstance(old, list) or schema.get("x-kubernetes-list-type") != "map" or not keys:
        return lambda index, item: NEW
    known = {repr([one.get(key) for key in keys]): one for one in old if isinstance(one, dict)}

    def find(index: int, item: Any) -> Any:
        return known.get(repr([item.get(key) for key in keys]), NEW) if isinstance(item, dict) else NEW

    return find


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _not_supported(path: Path, value: Any, supported: Sequence[Any]) -> FieldError:
    texts = [field.quote(one if isinstance(one, str) else field.show(one)) for one in supported]
    return FieldError("FieldValueNotSupported", str(path), value, f"supported values: {', '.join(texts)}")


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer" if -(1 << 63) <= value < 1 << 63 else "number"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _type_errors(value: Any, schema: Schema, path: Path) -> list[FieldError]:
    wanted: tuple[str, ...] = ("integer", "string") if schema.get("x-kubernetes-int-or-string") else ()
    if schema.get("type"):
        wanted = (schema["type"],)
    if not wanted:
        return []
    found = _json_type(value)
    if found in wanted or (found == "integer" and "number" in wanted):
        return []
    if found == "number" and "integer" in wanted and float(value).is_integer():
        return []
    name = ",".join(wanted)
    return [_bad_type(path, found, name, found)]


def _bad_type(path: Path, shown: str, wanted: str, found: str) -> FieldError:
    return field.type_invalid(path, shown, f'{path.text} in body must be of type {wanted}: "{found}"')


def _nowhere(message: str) -> FieldError:
    """Errors without a code of their own lose their place."""
    return field.invalid(ROOT, "", message)


# --- allOf, anyOf, oneOf, not ---------------------------------------------------------------------
def _combined_errors(value: Any, schema: Schema, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name = path.text
    if alternatives := schema.get("anyOf"):
        results = [schema_errors(value, one, path) for one in alternatives]
        if all(results):
            errors.append(_nowhere(f'"{name}" must validate at least one schema (anyOf)'))
            errors += _best(results)
    if alternatives := schema.get("oneOf"):
        results = [schema_errors(value, one, path) for one in alternatives]
        valid = sum(not one for one in results)
        if valid != 1:
            found = "none valid" if not valid else f"{valid} valid alternatives"
            errors.append(_nowhere(f'"{name}" must validate one and only one schema (oneOf). Found {found}'))
            if not valid:
                errors += _best(results)
    if alternatives := schema.get("allOf"):
        results = [schema_errors(value, one, path) for one in alternatives]
        failed = [error for one in results for error in one]
        if failed:
            none = ". None validated" if all(results) else ""
            errors += failed
            errors.append(_nowhere(f'"{name}" must validate all the schemas (allOf){none}'))
    if schema.get("not") is not None and not schema_errors(value, schema["not"], path):
        errors.append(_nowhere(f'"{name}" must not validate the schema (not)'))
    return errors


def _best(results: Sequence[list[FieldError]]) -> list[FieldError]:
    """Of alternatives that all failed, the first is told about."""
    return results[0] if results else []


# --- scalars --------------------------------------------------------------------------------------
def _text_errors(value: str, schema: Schema, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name = path.text
    longest, shortest, pattern = schema.get("maxLength"), schema.get("minLength"), schema.get("pattern")
    if longest is not None and len(value) > longest:
        errors.append(field.too_long(path, value, longest))
    elif shortest is not None and len(value) < shortest:
        errors.append(field.invalid(path, value, f"{name} in body should be at least {shortest} chars long"))
    elif pattern and compile_pattern(pattern).search(value) is None:
        errors.append(field.invalid(path, value, f"{name} in body should match '{pattern}'"))
    form = schema.get("format")
    if form and not is_format(form, value):
        errors.append(field.type_invalid(path, value, f"{name} in body must be of type {form}: {field.quote(value)}"))
    return errors


def _number_errors(value: int | float, schema: Schema, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name = path.text
    kind, form = schema.get("type"), schema.get("format") or ""
    if kind == "integer" and not _fits(value, form):
        shown = f"with format {form}" if form in _INTEGER_RANGES else "(default format)"
        errors.append(_nowhere(f"Checked value must be of type integer {shown} in {name}"))
    factor = schema.get("multipleOf")
    if factor is not None:
        errors += _multiple_errors(value, factor, path)
    highest, lowest = schema.get("maximum"), schema.get("minimum")
    if isinstance(value, int):  # whole values are held against whole limits, as upstream does
        highest, lowest = (None if one is None else int(one) for one in (highest, lowest))
    if highest is not None:
        strict = bool(schema.get("exclusiveMaximum"))
        if value >= highest if strict else value > highest:
            words = "less than" if strict else "less than or equal to"
            errors.append(field.invalid(path, value, f"{name} in body should be {words} {_number(highest)}"))
    if lowest is not None:
        strict = bool(schema.get("exclusiveMinimum"))
        if value <= lowest if strict else value < lowest:
            words = "greater than" if strict else "greater than or equal to"
            errors.append(field.invalid(path, value, f"{name} in body should be {words} {_number(lowest)}"))
    return errors


def _fits(value: int | float, form: str) -> bool:
    if isinstance(value, float) and not value.is_integer():
        return False
    limit = _INTEGER_RANGES.get(form, 2**63)
    return 0 <= value < limit if form.startswith("u") else -limit <= value < limit


def _multiple_errors(value: int | float, factor: int | float, path: Path) -> list[FieldError]:
    name = path.text
    if isinstance(value, int):
        factor = int(factor)  # as upstream does with whole values
    if factor <= 0:
        detail = f"factor MultipleOf declared for {name} must be positive: {_number(factor)}"
        return [field.invalid(path, factor, detail)]
    ratio = value / factor
    if value % factor == 0 if isinstance(value, int) else math.isclose(ratio, round(ratio), abs_tol=1e-9):
        return []
    return [field.invalid(path, value, f"{name} in body should be a multiple of {_number(factor)}")]


def _number(value: int | float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


# --- lists and objects ----------------------------------------------------------------------------
def _list_errors(value: list[Any], schema: Schema, path: Path, old: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    items = schema.get("items")
    if isinstance(items, Mapping):
        known = before(old, schema)
        for index, one in enumerate(value):
            errors += schema_errors(one, items, path.index(index), known(index, one))
    fewest, most = schema.get("minItems"), schema.get("maxItems")
    if fewest is not None and len(value) < fewest:
        detail = f"{path.text} in body should have at least {fewest} items"
        errors.append(field.invalid(path, len(value), detail))
    if most is not None and len(value) > most:
        errors.append(field.too_many(path, len(value), most))
    return errors


def _object_errors(value: dict[str, Any], schema: Schema, path: Path, old: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    known = old if isinstance(old, dict) else {}
    fewest, most = schema.get("minProperties"), schema.get("maxProperties")
    if fewest is not None and len(value) < fewest:
        detail = f"{path.text} in body should have at least {fewest} properties"
        errors.append(field.invalid(path, len(value), detail))
    if most is not None and len(value) > most:
        errors.append(field.too_many(path, len(value), most))
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    additional = schema.get("additionalProperties")
    for name, one in value.items():
        inner = properties.get(name)
        if inner is None and isinstance(additional, Mapping):
            inner = additional
        if inner is None or (one is None and name in required and not inner.get("nullable")):
            continue
        errors += schema_errors(one, inner, path.child(name), known.get(name, NEW))
    for name in required:
        inner = properties.get(name) or {}
        if name not in value or (value[name] is None and name in properties and not inner.get("nullable")):
            errors.append(field.required(path.child(name)))
    return errors


# --- lists with a type ----------------------------------------------------------------------------
def list_errors(value: Any, schema: Schema, path: Path = ROOT) -> list[FieldError]:
    """Items that come twice in lists of type set and map."""
    errors: list[FieldError] = []
    if isinstance(value, dict):
        properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, one in value.items():
            if name in properties:
                errors += list_errors(one, properties[name], path.child(name))
            elif isinstance(additional, Mapping):
                errors += list_errors(one, additional, path.key(name))
    elif isinstance(value, list):
        items = schema.get("items")
        errors += _twice(value, schema, path)
        if isinstance(items, Mapping):
            for index, one in enumerate(value):
                errors += list_errors(one, items, path.index(index))
    return errors


def _twice(value: list[Any], schema: Schema, path: Path) -> list[FieldError]:
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    if kind not in ("set", "map"):
        return []
    seen: set[str] = set()
    errors = []
    for index, one in enumerate(value):
        shown = (
            one if kind == "set" else {key: one[key] for key in keys if key in one} if isinstance(one, dict) else one
        )
        text = repr(shown)
        if text in seen:
            errors.append(field.duplicate(path.index(index), shown))
        seen.add(text)
    return errors
