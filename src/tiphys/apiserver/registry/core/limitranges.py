"""LimitRanges. https://kubernetes.io/docs/concepts/policy/limit-range/"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.kinds import TableStrategy, spec_of
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.resources import (
    validate_container_resource_name,
    validate_resource_name,
)
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Quantities = dict[str, Quantity]

LIMITS: Final = Path("spec").child("limits")
KINDS: Final = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
ONE: Final = Quantity.parse("1")


TYPES: Final = ("Container", "PersistentVolumeClaim", "Pod")


class LimitRangeStrategy(TableStrategy):
    """Minimum ≤ default request ≤ default ≤ maximum, for each resource of each kind of object."""

    allow_create_on_update: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        for limit in (obj.get("spec") or {}).get("limits") or ():
            if limit.get("type") == "Container":
                _default_container(limit)

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        """Without a name it gets a random one."""
        if not obj["metadata"].get("name"):
            obj["metadata"]["name"] = str(uuid.uuid4())

    def validate(self, obj: Object) -> list[FieldError]:
        errors: list[FieldError] = []
        seen: set[str] = set()
        for index, limit in enumerate(spec_of(obj).get("limits") or ()):
            path = LIMITS.index(index)
            kind = limit.get("type") or ""
            named = validate_label_name(kind, path.child("type"))
            errors += named
            if not named and "/" not in kind and kind not in TYPES:
                detail = "must be a standard limit type or fully qualified"
                errors.append(field.invalid(path.child("type"), kind, detail))
            if kind in seen:
                errors.append(field.duplicate(path.child("type"), kind))
            seen.add(kind)
            errors += _limit_errors(limit, kind, path)
        return errors


def _default_container(limit: Object) -> None:
    """default ← max; defaultRequest ← default, else min."""
    for target, sources in (("default", ("max",)), ("defaultRequest", ("default", "min"))):
        for source in sources:
            for name, quantity in (limit.get(source) or {}).items():
                if limit.get(target) is None:
                    limit[target] = {}
                limit[target].setdefault(name, quantity)


def _parsed(limit: Mapping[str, Any]) -> dict[str, Quantities]:
    return {kind: {name: Quantity.parse(text) for name, text in (limit.get(kind) or {}).items()} for kind in KINDS}


def _limit_errors(limit: Object, kind: str, path: Path) -> list[FieldError]:
    parsed = _parsed(limit)
    errors: list[FieldError] = []
    check = validate_container_resource_name if kind in ("Container", "Pod") else validate_resource_name
    names: list[str] = []
    for one in KINDS:
        if kind == "Pod" and one in ("default", "defaultRequest"):
            if parsed[one]:
                errors.append(field.forbidden(path.child(one), "may not be specified when `type` is 'Pod'"))
                parsed[one] = {}
            continue
        for name in sorted(parsed[one]):
            errors += check(name, path.child(one).key(name))
            if name not in names:
                names.append(name)
    if kind == "PersistentVolumeClaim" and "storage" not in parsed["min"] and "storage" not in parsed["max"]:
        detail = "either minimum or maximum storage value is required, but neither was provided"
        errors.append(field.required(path.child("limits"), detail))
    for name in names:
        errors += _order_errors(name, {one: values[name] for one, values in parsed.items() if name in values}, path)
    return errors


# (field the error names, value it shows, smaller one, its words, larger one, its words)
_ORDER: Final = (
    ("min", "min", "min", "min value", "max", "max value"),
    ("defaultRequest", "defaultRequest", "min", "min value", "defaultRequest", "default request value"),
    ("defaultRequest", "defaultRequest", "defaultRequest", "default request value", "max", "max value"),
    ("defaultRequest", "defaultRequest", "defaultRequest", "default request value", "default", "default limit value"),
    ("default", "min", "min", "min value", "default", "default value"),
    ("default", "max", "default", "default value", "max", "max value"),
)


def _order_errors(name: str, values: Quantities, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for target, shown, small, small_words, large, large_words in _ORDER:
        if small in values and large in values and values[small] > values[large]:
            detail = f"{small_words} {values[small]} is greater than {large_words} {values[large]}"
            errors.append(field.invalid(path.child(target).key(name), str(values[shown]), detail))
    ratio = values.get("maxLimitRequestRatio")
    if ratio is None:
        return errors
    where = path.child("maxLimitRequestRatio").key(name)
    if ratio < ONE:
        errors.append(field.invalid(where, str(ratio), f"ratio {ratio} is less than 1"))
    low, high = values.get("min"), values.get("max")
    if low is not None and high is not None and low.milli_value():
        largest = high.milli_value() / low.milli_value()
        if ratio.milli_value() / 1000 > largest:
            errors.append(field.invalid(where, str(ratio), f"ratio {ratio} is greater than max/min = {largest:f}"))
    return errors
