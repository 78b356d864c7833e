"""How much of a device's capacity a request may ask for.

https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#consumable-capacity
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.resource.sets import set_errors
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

MAX_OPTIONS: Final = 10
ONE_POLICY: Final = (
    'exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time'
)


def policy_errors(policy: Json, capacity: str, path: Path) -> list[FieldError]:
    """Errors of a request policy for a capacity: a list of amounts, or a range of them."""
    values, span = policy.get("validValues") or (), policy.get("validRange")
    if values and span is not None:
        return [field.forbidden(path, ONE_POLICY)]
    default = policy.get("default")
    if values:
        if default is None:
            return [field.required(path.child("default"), "required when validValues is defined")]
        return _options_errors(values, Quantity.parse(default), Quantity.parse(capacity), path.child("validValues"))
    if span is None:
        return []
    if span.get("min") is None:
        return [field.required(path.child("validRange", "min"), "required when validRange is defined")]
    if default is None:
        return [field.required(path.child("default"), "required when validRange is defined")]
    return _range_errors(span, Quantity.parse(default), Quantity.parse(capacity), path.child("validRange"))


def _options_errors(values: Sequence[Any], default: Quantity, capacity: Quantity, path: Path) -> list[FieldError]:
    options = [Quantity.parse(value) for value in values]
    errors = [
        field.invalid(path.index(index), str(option), "values must be sorted in ascending order")
        for index, option in enumerate(options)
        if index and option < options[index - 1]
    ]

    def check(option: Quantity, where: Path) -> list[FieldError]:
        if option <= capacity:
            return []
        return [field.invalid(where, str(option), f"option is larger than capacity value: {capacity}")]

    errors += set_errors(options, path, MAX_OPTIONS, check)
    if len(options) <= MAX_OPTIONS:
        for index, option in enumerate(options):
            if option in options[:index]:
                errors.append(field.duplicate(path.index(index), str(option)))
    if len(options) > MAX_OPTIONS or default not in options:
        errors.append(field.invalid(path, str(default), "default value is not valid according to the requestPolicy"))
    return errors


def _range_errors(span: Json, default: Quantity, capacity: Quantity, path: Path) -> list[FieldError]:
    low = Quantity.parse(span["min"])
    errors: list[FieldError] = []
    if default < low:
        errors.append(field.invalid(path.child("min"), str(default), f"default is less than min: {low}"))
    if low > capacity:
        errors.append(field.invalid(path.child("min"), str(low), f"min is larger than capacity value: {capacity}"))
    high = None if span.get("max") is None else Quantity.parse(span["max"])
    if high is not None:
        at = path.child("max")
        if high < low:
            errors.append(field.invalid(at, str(high), f"min is larger than max: {low}"))
        if high > capacity:
            errors.append(field.invalid(at, str(high), f"max is larger than capacity value: {capacity}"))
        if default > high:
            errors.append(field.invalid(at, str(default), f"default is more than max: {high}"))
    if span.get("step") is None:
        return errors
    step, at = Quantity.parse(span["step"]), path.child("step")
    if low + step > capacity:
        errors.append(field.invalid(at, str(step), f"one step {low + step} is larger than capacity value: {capacity}"))
    for amount in (default, *([] if high is None else [high])):
        if step.is_zero() or (amount - low).amount % step.amount:
            detail = f"value is not a multiple of a given step ({step}) from ({low})"
            errors.append(field.invalid(at, str(amount), detail))
    return errors
