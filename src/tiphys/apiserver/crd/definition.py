"""A CustomResourceDefinition read: the resources it describes, and what is wrong with its schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tiphys.api.table import Resource, Subresource
from tiphys.apiserver.crd.celtypes import cel_type, most_in_request
from tiphys.apiserver.crd.costs import Costs, worst_cost
from tiphys.apiserver.crd.extensions import ONLY_NAMES, extension_errors
from tiphys.apiserver.crd.jsonpath import parse as parse_path
from tiphys.apiserver.crd.jsonpath import simple_steps
from tiphys.apiserver.crd.rules import RuleError, compile_rule, default_errors, old_type
from tiphys.apiserver.crd.structural import pruned, structural
from tiphys.apiserver.crd.validation import below, schema_errors
from tiphys.machinery import field
from tiphys.machinery.cel.regex import compile_pattern
from tiphys.machinery.cel.types import Type
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import version_priority

Json = Mapping[str, Any]

VERBS: Final = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
SUB_VERBS: Final = ("get", "patch", "update")


def resources_of(spec: Json) -> list[Resource]:
    """The served versions of a definition whose names were accepted."""
    return [resource_of(spec, version) for version in spec.get("versions") or () if version.get("served")]


def resource_of(spec: Json, version: Json) -> Resource:
    """One version."""
    names = spec["names"]
    declared = version.get("subresources") or {}
    subresources = {}
    if declared.get("status") is not None:
        subresources["status"] = Subresource(names["kind"], SUB_VERBS)
    if declared.get("scale") is not None:
        subresources["scale"] = Subresource("Scale", SUB_VERBS, "autoscaling", "v1")
    return Resource(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        namespaced=spec.get("scope") == "Namespaced",
        verbs=VERBS,
        subresources=subresources,
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
    )


def storage_version(spec: Json) -> Json:
    """The version objects are stored in."""
    found: Json = next(version for version in spec["versions"] if version.get("storage"))
    return found


def deprecation(spec: Json, version: Json) -> str:
    """What users of a version are told: its own words, or which version to use instead. "" for one not deprecated."""
    if not version.get("deprecated"):
        return ""
    if version.get("deprecationWarning"):
        return str(version["deprecationWarning"])
    group, kind = spec["group"], spec["names"]["kind"]
    own = version_priority(version["name"])
    better = [
        one["name"]
        for one in spec["versions"]
        if one.get("served") and not one.get("deprecated") and version_priority(one["name"]) < own
    ]
    text = f"{group}/{version['name']} {kind} is deprecated"
    return f"{text}; use {group}/{min(better, key=version_priority)} {kind}" if better else text


# --- what may be wrong ----------------------------------------------------------------------------
def declared_errors(versions: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of the schemas, the columns and the subresources of all versions; `path` is spec.

    What is the same in every version is judged once, and is named as if it stood beside the versions, where the first
    versions of the API had it: `spec.validation.openAPIV3Schema`.
    """
    errors: list[FieldError] = []
    for name, outer, judge in _DECLARED:
        values = [version.get(name) for version in versions]
        if values and all(value == values[0] for value in values):
            errors += judge(versions[0], path.child(outer))
            continue
        for index, version in enumerate(versions):
            errors += judge(version, path.child("versions").index(index).child(name))
    return errors


def _declared_schema(version: Json, path: Path) -> list[FieldError]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if not isinstance(schema, Mapping):
        return []
    status = (version.get("subresources") or {}).get("status") is not None
    return schema_errors_of(schema, path.child("openAPIV3Schema"), status=status)


def _declared_subresources(version: Json, path: Path) -> list[FieldError]:
    return _subresource_errors(version.get("subresources") or {}, path)


def _declared_columns(version: Json, path: Path) -> list[FieldError]:
    columns = enumerate(version.get("additionalPrinterColumns") or ())
    return [error for index, column in columns for error in _column_errors(column, path.index(index))]


def _declared_fields(version: Json, path: Path) -> list[FieldError]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    return _selectable_errors(version.get("selectableFields") or (), schema, path)


_DECLARED: Final = (
    ("schema", "validation", _declared_schema),
    ("subresources", "subresources", _declared_subresources),
    ("additionalPrinterColumns", "additionalPrinterColumns", _declared_columns),
    ("selectableFields", "selectableFields", _declared_fields),
)


COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
COLUMN_FORMATS: Final = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")


def _column_errors(column: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if not column.get("name"):
        errors.append(field.required(path.child("name")))
    kind, form = column.get("type") or "", column.get("format") or ""
    if not kind:
        errors.append(field.required(path.child("type"), f"must be one of {','.join(COLUMN_TYPES)}"))
    elif kind not in COLUMN_TYPES:
        errors.append(field.invalid(path.child("type"), kind, f"must be one of {','.join(COLUMN_TYPES)}"))
    if form and form not in COLUMN_FORMATS:
        errors.append(field.invalid(path.child("format"), form, f"must be one of {','.join(COLUMN_FORMATS)}"))
    where, text = path.child("JSONPath"), column.get("jsonPath") or ""
    if not text:
        errors.append(field.required(where))
    else:
        errors += _path_errors(text, where)
    return errors


def _path_errors(text: str, path: Path) -> list[FieldError]:
    if not text.startswith("."):
        return [field.invalid(path, text, "must be a simple json path starting with .")]
    try:
        parse_path(text)
    except ValueError as error:
        return [field.invalid(path, text, f"is an invalid JSON path: {error}")]
    return []


def _subresource_errors(declared: Json, path: Path) -> list[FieldError]:
    scale = declared.get("scale")
    errors: list[FieldError] = []
    if not isinstance(scale, Mapping):
        return errors
    wanted = (("specReplicasPath", (".spec.",), True), ("statusReplicasPath", (".status.",), True))
    for name, starts, required in (*wanted, ("labelSelectorPath", (".spec.", ".status."), False)):
        where, text = path.child("scale", name), scale.get(name) or ""
        if not text:
            if required:
                errors.append(field.required(where))
            continue
        if not text.startswith("."):
            errors.append(field.invalid(where, text, "must be a simple json path starting with ."))
            continue
        try:
            simple_steps(text)
        except ValueError:
            errors.append(field.invalid(where, text, "is an invalid JSON path"))
        if not text.startswith(starts):
            shown = " or ".join(one.rstrip(".") for one in starts)
            shown = f"either {shown}" if len(starts) > 1 else shown
            errors.append(field.invalid(where, text, f"should be a json path under {shown}"))
    return errors


def _selectable_errors(fields: Sequence[Json], schema: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, one in enumerate(fields):
        where, text = path.index(index).child("jsonPath"), one.get("jsonPath") or ""
        if not text:
            errors.append(field.required(where))
            continue
        if text in seen:
            errors.append(field.duplicate(where, text))
        seen.add(text)
        node: Any = schema
        try:
            for name in simple_steps(text):
                node = (node.get("properties") or {}).get(name) or {}
        except ValueError:
            node = {}
        if node.get("type") not in ("string", "boolean", "integer"):
            detail = (
                "must point to a field of type string, boolean or integer. "
                "Enum string fields and strings with formats are allowed."
            )
            if not node:
                detail = "is an invalid path: does not refer to a valid field"
                if re.search(r"\[\d+\]", text):
                    detail = "is an invalid path: array notation is not allowed"
                elif not text.startswith((".", "[")):
                    detail = f"is an invalid path: expected [ or . but got: {text}"
            errors.append(field.invalid(where, text, detail))
        elif text.startswith(".metadata."):
            errors.append(field.invalid(where, text, "must not point to fields in metadata"))
    return errors


# --- schemas --------------------------------------------------------------------------------------
_LOGICAL: Final = ("allOf", "anyOf", "oneOf")
_NOT_IN_LOGIC: Final = (
    "description",
    "type",
    "title",
    "default",
    "additionalProperties",
    "nullable",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
)
FORBIDDEN: Final = (
    ("uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
)
MUST_BE_EMPTY: Final = ("$ref", "definitions", "dependencies", "patternProperties", "additionalItems", "id")
STATUS_NEEDS: Final = (
    'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
)
NO_SCHEMA: Final = "OpenAPIV3Schema 'schema' is not supported"


def schema_errors_of(schema: Json, path: Path, *, status: bool = False) -> list[FieldError]:
    """What is wrong with a schema at a path. `status`: its objects have the status subresource."""
    errors: list[FieldError] = []
    if schema.get("type") and schema["type"] != "object":
        if status:
            errors.append(field.invalid(path.child("type"), schema["type"], STATUS_NEEDS))
        errors.append(field.invalid(path.child("type"), schema["type"], "must be object at the root"))
    elif not schema.get("type"):
        errors.append(field.required(path.child("type"), "must not be empty at the root"))
    if schema.get("nullable"):
        errors.append(field.forbidden(path.child("nullable"), "nullable cannot be true at the root"))
    if any(one.get("$schema") for one in nodes(schema)):
        errors.append(field.invalid(path, "", NO_SCHEMA))
    errors += _node_errors(schema, path, root=True)
    if not errors:
        errors += _default_errors(schema, path)
    if not errors:
        errors += _rule_errors(schema, path)
    return errors


def nodes(schema: Json) -> Iterator[Json]:
    """A schema and every schema in it."""
    yield schema
    for _, _, inner in _inner(schema, Path()):
        yield from nodes(inner)
    for inner in [one for word in _LOGICAL for one in schema.get(word) or ()]:
        yield from nodes(inner)
    if isinstance(schema.get("not"), Mapping):
        yield from nodes(schema["not"])


def _node_errors(schema: Json, path: Path, *, root: bool = False) -> list[FieldError]:
    errors = _own_errors(schema, path, root=root)
    for name, where, inner in _inner(schema, path):
        errors += _node_errors(inner, where)
        if name == "metadata" and root:
            more = set(inner) - {"type", "properties", "description"}
            if more or set(inner.get("properties") or {}) - {"name", "generateName"}:
                errors.append(field.forbidden(where, ONLY_NAMES))
    for word in _LOGICAL:
        for index, one in enumerate(schema.get(word) or ()):
            errors += _logic_errors(one, path.child(word).index(index), schema)
    if isinstance(schema.get("not"), Mapping):
        errors += _logic_errors(schema["not"], path.child("not"), schema)
    return errors


def _inner(schema: Json, path: Path) -> Iterator[tuple[str, Path, Json]]:
    for name, one in (schema.get("properties") or {}).items():
        yield name, path.child("properties").key(name), one
    if isinstance(schema.get("items"), Mapping):
        yield "", path.child("items"), schema["items"]
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield "", path.child("additionalProperties"), schema["additionalProperties"]


def _own_errors(schema: Json, path: Path, *, root: bool) -> list[FieldError]:
    errors: list[FieldError] = []
    kind, mixed = schema.get("type") or "", bool(schema.get("x-kubernetes-int-or-string"))
    preserve = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if kind not in ("", "array", "boolean", "integer", "number", "object", "string"):
        supported = ["array", "boolean", "integer", "number", "object", "string"]
        errors.append(field.not_supported(path.child("type"), kind, supported))
    elif not kind and not root and not mixed and not preserve:
        errors.append(field.required(path.child("type"), "must not be empty for specified object fields"))
    errors += _unsupported_errors(schema, path)
    if kind == "array" and not isinstance(schema.get("items"), Mapping):
        errors.append(field.required(path.child("items"), "must be specified"))
    errors += extension_errors(schema, path)
    if schema.get("properties") and schema.get("additionalProperties") not in (None, False):
        errors.append(
            field.forbidden(
                path.child("additionalProperties"), "additionalProperties and properties are mutual exclusive"
            )
        )
    errors += _pattern_errors(schema, path)
    return errors


def _unsupported_errors(schema: Json, path: Path) -> list[FieldError]:
    """What JSON schema has and definitions of resources have not."""
    errors = [field.forbidden(path.child(name), detail) for name, detail in FORBIDDEN if schema.get(name)]
    return errors + [
        field.forbidden(path.child(name), f"{name} is not supported")
        for name in MUST_BE_EMPTY
        if schema.get(name) or (name == "dependencies" and schema.get(name) is not None)
    ]


def _pattern_errors(schema: Json, path: Path) -> list[FieldError]:
    pattern = schema.get("pattern")
    if not pattern:
        return []
    try:
        compile_pattern(pattern)
    except ValueError as error:
        detail = f"must be a valid regular expression, but isn't: {error}"
        return [field.invalid(path.child("pattern"), pattern, detail)]
    return []


def _default_errors(schema: Json, path: Path) -> list[FieldError]:
    """Defaults must be valid; asked of a schema that is otherwise in order."""
    errors: list[FieldError] = []
    if schema.get("default") is not None:
        where = path.child("default")
        node = structural(schema)
        if pruned(schema["default"], node) != schema["default"]:
            errors.append(field.invalid(where, schema["default"], "must not have unknown fields"))
        else:
            errors += below(where, schema_errors(schema["default"], schema)) or default_errors(node, where)
    for _, where, inner in _inner(schema, path):
        errors += _default_errors(inner, where)
    return errors


_WORDS: Final = {
    "description": "empty",
    "type": "empty",
    "title": "empty",
    "default": "undefined",
    "additionalProperties": "undefined",
    "x-kubernetes-list-type": "undefined",
    "x-kubernetes-list-map-keys": "empty",
    "x-kubernetes-map-type": "undefined",
    "x-kubernetes-validations": "empty",
}


def _logic_errors(schema: Json, path: Path, owner: Json) -> list[FieldError]:
    """Inside allOf, anyOf, oneOf and not there may be validations only, of fields the skeleton has."""
    allowed = owner.get("x-kubernetes-int-or-string") and set(schema) == {"type"}
    errors = [
        field.forbidden(path.child(name), f"must be {_WORDS.get(name, 'false')} to be structural")
        for name in _NOT_IN_LOGIC
        if (schema.get(name) or (name == "default" and schema.get(name) is not None))
        and not (name == "type" and allowed)
    ]
    extensions = {key: value for key, value in schema.items() if key != "x-kubernetes-embedded-resource"}
    errors += _unsupported_errors(schema, path) + extension_errors(extensions, path) + _pattern_errors(schema, path)
    for word in _LOGICAL:
        for index, one in enumerate(schema.get(word) or ()):
            errors += _logic_errors(one, path.child(word).index(index), owner)
    if isinstance(schema.get("not"), Mapping):
        errors += _logic_errors(schema["not"], path.child("not"), owner)
    known = owner.get("properties") or {}
    for name, where, inner in _inner(schema, path):
        beside = known.get(name) if name else owner.get("items")
        errors += _logic_errors(inner, where, beside or {})
        if name and inner and beside is None and not owner.get("additionalProperties"):
            missing = _beside_logic(path).child("properties").key(name)
            errors.append(field.required(missing, f"because it is defined in {where}"))
    return errors


def _beside_logic(path: Path) -> Path:
    """The place of the skeleton that a place in a logical schema stands for."""
    return Path(re.sub(r"\.(?:(?:allOf|anyOf|oneOf)\[\d+\]|not)(?=\.|$)", "", path.text))


def _shown(rule: Json) -> Json:
    """A rule as errors show it."""
    return {
        "Rule": rule.get("rule") or "",
        "Message": rule.get("message") or "",
        "MessageExpression": rule.get("messageExpression") or "",
        "Reason": rule.get("reason"),
        "FieldPath": rule.get("fieldPath") or "",
        "OptionalOldSelf": rule.get("optionalOldSelf"),
    }


def _rule_errors(schema: Json, path: Path) -> list[FieldError]:
    """What is wrong with the rules of a schema, and with what they may cost."""
    costs = Costs()
    errors = _node_rule_errors(schema, path, costs, 1, root=True)
    return errors + costs.total_errors(path)


def _node_rule_errors(
    schema: Json, path: Path, costs: Costs, count: int | None, *, root: bool = False
) -> list[FieldError]:
    """Of one node and those below it; `count` is how many values of it one object may have."""
    errors: list[FieldError] = []
    rules = schema.get("x-kubernetes-validations") or ()
    if rules:
        node = structural(schema)
        own = cel_type(node, resource=root or node.embedded)
        times = count if count is not None else most_in_request(node)
        for index, rule in enumerate(rules):
            errors += _own_rule_errors(rule, path.child("x-kubernetes-validations").index(index), own, costs, times)
    for name, where, inner in _inner(schema, path):
        inside = count
        if not name:
            most = schema.get("maxItems" if schema.get("type") == "array" else "maxProperties")
            inside = None if count is None or most is None else count * most
        errors += _node_rule_errors(inner, where, costs, inside)
    return errors


def _own_rule_errors(rule: Json, where: Path, own: Type, costs: Costs, count: int) -> list[FieldError]:
    if not (rule.get("rule") or "").strip():
        return [field.required(where.child("rule"), "rule is not specified")]
    errors: list[FieldError] = []
    try:
        compiled = compile_rule(0, rule, own)
    except RuleError as error:
        return [*errors, field.invalid(where.child(error.where), _shown(rule), str(error))]
    if rule.get("optionalOldSelf") is not None and not compiled.transition:
        detail = "may not be set if oldSelf is not used in rule"
        errors.append(field.invalid(where.child("optionalOldSelf"), rule["optionalOldSelf"], detail))
    old = old_type(rule, own)
    errors += costs.take(worst_cost(compiled.program, own, old) * count, where.child("rule"), "rule")
    if compiled.message is not None:
        cost = worst_cost(compiled.message, own, old) * count
        errors += costs.take(cost, where.child("messageExpression"), "messageExpression")
    return errors
