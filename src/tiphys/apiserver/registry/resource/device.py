"""One device of a ResourceSlice: attributes, capacity, taints, counters, where it is.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/resource-slice-v1/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.resource.capacity import policy_errors
from tiphys.apiserver.registry.resource.sets import (
    label_errors,
    qualified_errors,
    required_label_errors,
    set_errors,
)
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.selectors import validate_node_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

MAX_ATTRIBUTES_AND_CAPACITIES: Final = 32
MAX_VALUE_BYTES: Final = 64
MAX_TAINTS: Final = 16
MAX_CONSUMED_SETS: Final = 2
MAX_COUNTERS: Final = 32
MAX_CONDITIONS: Final = 4
EFFECTS: Final = ("NoExecute", "NoSchedule", "None")
VALUE_NAMES: Final = ("int", "bool", "string", "version")
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_PRE: Final = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
SEMVER: Final = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE}(?:\.{_PRE})*)?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)
ONE_VALUE: Final = "exactly one value must be specified"
NOT_HERE: Final = (
    "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the "
    "ResourceSlice spec"
)
ONE_PLACE: Final = (
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to "
    "true in the ResourceSlice spec"
)
UNSET_OR_TRUE: Final = "must be either unset or set to true"


def device_errors(device: Json, path: Path, *, per_device: bool) -> list[FieldError]:
    """Errors of a device. `per_device`: each device of the slice says where it is."""
    errors = label_errors(device.get("name") or "", path.child("name"))
    attributes: Json = device.get("attributes") or {}
    capacity: Json = device.get("capacity") or {}
    total = len(attributes) + len(capacity)
    if total > MAX_ATTRIBUTES_AND_CAPACITIES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES_AND_CAPACITIES}"
        errors.append(field.invalid(path, total, detail))
    where = path.child("attributes")
    for name, attribute in attributes.items():
        errors += qualified_errors(name, where)
        errors += _attribute_errors(attribute or {}, where.key(name))
    where = path.child("capacity")
    shared = bool(device.get("allowMultipleAllocations"))
    for name, one in capacity.items():
        errors += qualified_errors(name, where)
        errors += _capacity_errors(one or {}, where.key(name), shared=shared)
    errors += set_errors(device.get("taints") or (), path.child("taints"), MAX_TAINTS, taint_errors)
    where = path.child("consumesCounters")
    consumed = device.get("consumesCounters") or ()
    errors += set_errors(consumed, where, MAX_CONSUMED_SETS, _consumed_errors, lambda one: one.get("counterSet") or "")
    errors += _place_errors(device, path, per_device=per_device)
    return errors + _binding_errors(device, path)


def _attribute_errors(attribute: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    text, version = attribute.get("string"), attribute.get("version")
    if text is not None and len(text.encode()) > MAX_VALUE_BYTES:
        errors.append(field.too_long(path.child("string"), text, MAX_VALUE_BYTES))
    if version is not None:
        if not SEMVER.fullmatch(version):
            detail = "must be a string compatible with semver.org spec 2.0.0"
            errors.append(field.invalid(path.child("version"), version, detail))
        if len(version.encode()) > MAX_VALUE_BYTES:
            errors.append(field.too_long(path.child("version"), version, MAX_VALUE_BYTES))
    given = [name for name in VALUE_NAMES if attribute.get(name) is not None]
    if not given:
        errors.append(field.invalid(path, "", ONE_VALUE))
    elif len(given) > 1:
        shown = {f"{name.capitalize()}Value": attribute.get(name) for name in VALUE_NAMES}
        shown |= {f"{name.capitalize()}Values": None for name in VALUE_NAMES}
        errors.append(field.invalid(path, shown, ONE_VALUE))
    return errors


def _capacity_errors(capacity: Json, path: Path, *, shared: bool) -> list[FieldError]:
    policy = capacity.get("requestPolicy")
    if policy is None:
        return []
    where = path.child("requestPolicy")
    if not shared:
        return [field.forbidden(where, "allowMultipleAllocations must be true")]
    return policy_errors(policy, str(capacity.get("value") or "0"), where)


def taint_errors(taint: Json, path: Path) -> list[FieldError]:
    """Errors of a taint of a device."""
    errors = validate_label_name(taint.get("key") or "", path.child("key"))
    value, effect = taint.get("value") or "", taint.get("effect") or ""
    errors += [field.invalid(path.child("value"), value, message) for message in formats.label_value(value)]
    if not effect:
        errors.append(field.required(path.child("effect"), ""))
    elif effect not in EFFECTS:
        errors.append(field.not_supported(path.child("effect"), effect, EFFECTS))
    return errors


def _consumed_errors(consumed: Json, path: Path) -> list[FieldError]:
    errors = required_label_errors(consumed.get("counterSet") or "", path.child("counterSet"))
    return errors + counters_errors(consumed.get("counters") or {}, path.child("counters"))


def counter_set_errors(counters: Json, path: Path) -> list[FieldError]:
    """Errors of a set of counters that devices of a pool share."""
    errors = required_label_errors(counters.get("name") or "", path.child("name"))
    return errors + counters_errors(counters.get("counters") or {}, path.child("counters"))


def counters_errors(counters: Json, path: Path) -> list[FieldError]:
    """Errors of counters by name: at least one, at most 32."""
    if not counters:
        return [field.required(path, "")]
    if len(counters) > MAX_COUNTERS:
        return [field.too_many(path, len(counters), MAX_COUNTERS)]
    return [error for name in counters for error in label_errors(name, path)]


def _place_errors(device: Json, path: Path, *, per_device: bool) -> list[FieldError]:
    node, selector, everywhere = device.get("nodeName"), device.get("nodeSelector"), device.get("allNodes")
    if not per_device:
        said = not (node is None and selector is None and everywhere is None)
        return [field.invalid(path, None, NOT_HERE)] if said else []
    errors: list[FieldError] = []
    if node == "":
        errors.append(field.invalid(path.child("nodeName"), "", "must not be empty"))
    elif node is not None:
        errors += [field.invalid(path.child("nodeName"), node, one) for one in formats.dns1123_subdomain(node)]
    if selector is not None:
        errors += validate_node_selector(selector, path.child("nodeSelector"))
    if everywhere is False:
        errors.append(field.invalid(path.child("allNodes"), False, UNSET_OR_TRUE))
    given = (("nodeName", bool(node)), ("nodeSelector", selector is not None), ("allNodes", bool(everywhere)))
    chosen = [f"`{name}`" for name, said in given if said]
    if not chosen:
        errors.append(field.required(path, ONE_PLACE))
    elif len(chosen) > 1:
        errors.append(field.invalid(path, "{" + ", ".join(chosen) + "}", ONE_PLACE))
    return errors


def _binding_errors(device: Json, path: Path) -> list[FieldError]:
    """Conditions a device waits for, and those that end the waiting: both or neither, none of them both."""
    wanted: Sequence[str] = device.get("bindingConditions") or ()
    failures: Sequence[str] = device.get("bindingFailureConditions") or ()
    errors: list[FieldError] = []
    for name, conditions in (("bindingConditions", wanted), ("bindingFailureConditions", failures)):
        errors += set_errors(conditions, path.child(name), MAX_CONDITIONS, validate_label_name, str)
    at = path.child("bindingFailureConditions")
    overlap = "bindingFailureConditions must not overlap with bindingConditions"
    errors += [field.invalid(at.index(i), one, overlap) for i, one in enumerate(failures) if one in wanted]
    if wanted and not failures:
        detail = "bindingFailureConditions are required to use bindingConditions"
        errors.append(field.invalid(at, None, detail))
    if failures and not wanted:
        detail = "bindingConditions are required to use bindingFailureConditions"
        errors.append(field.invalid(path.child("bindingConditions"), None, detail))
    return errors
