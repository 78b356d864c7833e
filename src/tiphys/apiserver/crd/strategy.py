"""The strategy of one version of a custom resource: everything it knows comes from its definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

import orjson

from tiphys.api.table import Resource
from tiphys.apiserver.crd.jsonpath import find, simple_steps
from tiphys.apiserver.crd.rules import Ruled, compile_rules, rule_errors
from tiphys.apiserver.crd.structural import Structural, pruned, set_defaults
from tiphys.apiserver.crd.validation import NEW, list_errors, schema_errors
from tiphys.apiserver.registry.strategy import (
    CREATED_AT_COLUMN,
    NAME_COLUMN,
    Cell,
    Column,
    Object,
    RequestContext,
    Strategy,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import human_duration, parse_rfc3339

AGE: Final = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_OWN_OF_STATUS: Final = ("managedFields", "resourceVersion")
COLUMN_TEXT: Final = "Custom resource definition column (in JSONPath format): %s"


class CustomStrategy(Strategy):
    """Rules of custom objects in one version."""

    allow_unconditional_update: ClassVar[bool] = False
    generation: ClassVar[bool | None] = True
    strict_finalizers: ClassVar[bool] = False

    def __init__(self, resource: Resource, version: Mapping[str, Any], schema: Structural) -> None:
        """`version` is an item of the definition's spec.versions, `schema` its skeleton."""
        super().__init__(resource)
        self.schema = schema
        self.ruled: Ruled | None = compile_rules(schema, resource=True)
        self._version = version
        self._raw = without_metadata(schema.raw)
        given = version.get("additionalPrinterColumns")
        self._columns: Sequence[Mapping[str, Any]] = given or (AGE,)
        self.columns = (NAME_COLUMN, *(_column(one, own=bool(given)) for one in self._columns))
        self.declared_fields = [one["jsonPath"] for one in version.get("selectableFields") or ()]
        # Paths of fields a selector may name; those of all versions, as the cache keeps one set of values an object.
        self.selectable = list(self.declared_fields)
        self.scale: Mapping[str, Any] | None = (version.get("subresources") or {}).get("scale")

    # --- shape ------------------------------------------------------------------------------------
    def shaped(self, obj: Object) -> Object:
        """A stored object as this version shows it: without what the schema does not know, with its defaults."""
        out: Object = pruned(obj, self.schema, resource=True)
        set_defaults(out, self.schema)
        return out

    def default(self, obj: Object) -> None:
        set_defaults(obj, self.schema)

    # --- writing ----------------------------------------------------------------------------------
    def spec_changed(self, new: Object, old: Object) -> bool:
        """Anything but metadata counts, and but status where that is a subresource."""
        ignored = {"metadata", "kind", "apiVersion", *(("status",) if self.has_status else ())}
        return any(new.get(key) != old.get(key) for key in {*new, *old} - ignored)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Nothing but the status changes, and who owns it."""
        super().prepare_for_status_update(ctx, new, old)
        metadata = new["metadata"]
        own = {name: metadata[name] for name in ("managedFields", "resourceVersion") if metadata.get(name)}
        metadata.clear()
        metadata.update({name: value for name, value in old["metadata"].items() if name not in _OWN_OF_STATUS})
        metadata.update(own)

    def validate(self, obj: Object) -> list[FieldError]:
        return self._errors(obj, NEW)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return self._errors(new, old)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return self._errors(new, old)

    def _errors(self, obj: Object, old: Any) -> list[FieldError]:
        errors = schema_errors(obj, self._raw, old=old)
        errors += _metadata_errors(obj, self.schema)
        errors += list_errors(obj, self._raw)
        errors += self._scale_errors(obj)
        if not any(error.type == "FieldValueTypeInvalid" for error in errors):
            errors += rule_errors(self.ruled, obj, old)
        return errors

    def _scale_errors(self, obj: Object) -> list[FieldError]:
        errors = []
        for name in ("specReplicasPath", "statusReplicasPath"):
            path = (self.scale or {}).get(name)
            found = value_at(obj, path) if path else None
            if isinstance(found, int) and found < 0:
                errors.append(field.invalid(Path(path or ""), found, "should be a non-negative integer"))
        return errors

    # --- reading ----------------------------------------------------------------------------------
    def selectable_fields(self, obj: Object) -> dict[str, str]:
        fields = super().selectable_fields(obj)
        for path in self.selectable:
            fields[path.lstrip(".")] = _field_text(value_at(obj, path))
        return fields

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [obj["metadata"].get("name", ""), *(_cell(obj, one, now) for one in self._columns)]


def without_metadata(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema but for metadata, which is judged apart, and for the types of apiVersion and kind."""
    properties = {name: one for name, one in (raw.get("properties") or {}).items() if name != "metadata"}
    required = [name for name in raw.get("required") or () if name != "metadata"]
    return {**raw, "properties": properties, "required": required}


def _metadata_errors(obj: Object, schema: Structural) -> list[FieldError]:
    """Schemas may restrict the name."""
    node = schema.properties.get("metadata")
    errors: list[FieldError] = []
    for name in ("name", "generateName"):
        one = node.properties.get(name) if node is not None else None
        value = obj["metadata"].get(name)
        if one is not None and value is not None:
            errors += schema_errors(value, one.raw, Path("metadata").child(name))
    return errors


def value_at(obj: Any, path: str) -> Any:
    """The value at a path of names; None without one."""
    try:
        names = simple_steps(path)
    except ValueError:
        return None
    for name in names:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(name)
    return obj


def _field_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


# --- columns --------------------------------------------------------------------------------------
def _column(one: Mapping[str, Any], *, own: bool) -> Column:
    text = one.get("description") or (COLUMN_TEXT % one.get("jsonPath") if own else CREATED_AT_COLUMN.description)
    return Column(
        one.get("name", ""),
        type=one.get("type", "string"),
        description=text,
        format=one.get("format") or "",
        priority=one.get("priority") or 0,
    )


def _cell(obj: Object, one: Mapping[str, Any], now: datetime) -> Cell:
    try:
        found = find(obj, one.get("jsonPath", ""))
    except ValueError:
        return None
    if not found or found[0] is None:
        return None
    value = found[0]
    match one.get("type"):
        case "date":
            return _ago(value, now)
        case "integer":
            return _whole(value)
        case "number":
            return value if isinstance(value, (int, float)) else None
        case "boolean":
            return value if isinstance(value, bool) else None
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return _field_text(value)


def _whole(value: Any) -> Cell:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return int(value)
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else None


def _ago(value: Any, now: datetime) -> Cell:
    try:
        return human_duration(now - parse_rfc3339(value))
    except (ValueError, TypeError):
        return "<invalid>"
