"""Nodes. https://kubernetes.io/docs/concepts/architecture/nodes/"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import NONE, UNKNOWN
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.pod_warnings import ip_warnings
from tiphys.apiserver.registry.validation.resources import validate_quantity
from tiphys.apiserver.registry.validation.scheduling import effect_errors
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path, quote

METADATA: Final = Path("metadata")
SPEC: Final = Path("spec")
STATUS: Final = Path("status")
ROLE_PREFIX: Final = "node-role.kubernetes.io/"
TAINTS_DETAIL: Final = "taints must be unique by key and effect pair"


FEATURE: Final = re.compile("[A-Z][A-Za-z0-9]*(/[A-Za-z][A-Za-z0-9]*)*")
FEATURE_RULE: Final = (
    "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or "
    "MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
)
# Fields that do nothing any more.
DEPRECATED: Final = {"externalID": "this field is deprecated, and is unused by Kubernetes"}


class NodeStrategy(TableStrategy):
    """A node's status may come with its creation; CIDRs and the provider's id stay once set."""

    def default(self, obj: Object) -> None:
        status = obj.get("status") or {}
        if status.get("capacity") and status.get("allocatable") is None:
            obj["status"]["allocatable"] = dict(status["capacity"])
        spec = obj.get("spec") or {}
        # podCIDR is the first of podCIDRs; old clients know only the one, so it wins.
        first, every = spec.get("podCIDR"), spec.get("podCIDRs")
        if first and (not every or every[0] != first):
            spec["podCIDRs"] = [first]
        elif every:
            spec["podCIDR"] = every[0]

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        """The status is kept: a kubelet registers with it."""
        _drop_configuration(obj)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        _drop_configuration(new)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_status_update(ctx, new, old)
        _drop_configuration(new)

    def validate(self, obj: Object) -> list[FieldError]:
        errors = _errors(obj)
        capacity = ((status_of(obj).get("nodeInfo") or {}).get("swap") or {}).get("capacity")
        if capacity is not None and capacity < 0:
            where = METADATA.child("nodeSwapStatus", "capacity")
            errors.append(field.invalid(where, capacity, "must be greater than zero"))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = _errors(new)
        spec, known = spec_of(new), spec_of(old)
        if known.get("podCIDRs") and spec.get("podCIDRs") != known["podCIDRs"]:
            detail = 'node updates may not change podCIDR except from "" to valid'
            errors.append(field.forbidden(SPEC.child("podCIDRs"), detail))
        if known.get("providerID") and spec.get("providerID") != known["providerID"]:
            detail = 'node updates may not change providerID except from "" to valid'
            errors.append(field.forbidden(SPEC.child("providerID"), detail))
        if (spec.get("externalID") or "") != (known.get("externalID") or ""):
            errors.append(field.forbidden(SPEC.child("externalID"), "may not be updated"))
        return errors

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return _status_errors(new) + _address_errors(status_of(new).get("addresses") or ())

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        found: list[str] = []
        for name, text in DEPRECATED.items():
            if spec_of(obj).get(name):
                found.append(f"{SPEC.child(name)}: {text}")
        for index, address in enumerate(status_of(obj).get("addresses") or ()):
            if address.get("type") in ("InternalIP", "ExternalIP"):
                where = STATUS.child("addresses").index(index).child("address")
                found += ip_warnings(address.get("address") or "", where)
        return found

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        unschedulable = "true" if spec_of(obj).get("unschedulable") else "false"
        return super().selectable_fields(obj) | {"spec.unschedulable": unschedulable}

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        status = status_of(obj)
        info: Mapping[str, Any] = status.get("nodeInfo") or {}
        runtime = info.get("containerRuntimeVersion") or UNKNOWN
        kernel = info.get("kernelVersion") or UNKNOWN
        architecture = info.get("architecture")
        return [
            name_of(obj),
            _condition_text(obj),
            _roles(obj),
            age(obj, now),
            info.get("kubeletVersion") or "",
            _address(status, "InternalIP"),
            _address(status, "ExternalIP"),
            info.get("osImage") or UNKNOWN,
            f"{kernel} ({architecture})" if architecture else kernel,
            runtime,
        ]


def _condition_text(node: Object) -> str:
    ready = [one for one in status_of(node).get("conditions") or () if one.get("type") == "Ready"]
    words = ["Ready" if one.get("status") == "True" else "NotReady" for one in ready] or ["Unknown"]
    if spec_of(node).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(node: Object) -> str:
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    roles = {key.removeprefix(ROLE_PREFIX) for key in labels if key.startswith(ROLE_PREFIX)} - {""}
    if labels.get("kubernetes.io/role"):
        roles.add(labels["kubernetes.io/role"])
    return ",".join(sorted(roles)) or NONE


def _address(status: Object, kind: str) -> str:
    for one in status.get("addresses") or ():
        if one.get("type") == kind:
            return str(one.get("address"))
    return NONE


def _errors(node: Object) -> list[FieldError]:
    spec = spec_of(node)
    errors = _taint_errors(spec.get("taints") or (), METADATA.child("taints"))
    errors += _status_errors(node)
    return errors + _cidr_errors(list(spec.get("podCIDRs") or ()), SPEC.child("podCIDRs"))


def _taint_errors(taints: Sequence[Object], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        where = path.index(index)
        key, value, effect = taint.get("key") or "", taint.get("value") or "", taint.get("effect") or ""
        errors += validate_label_name(key, where.child("key"))
        messages = formats.label_value(value)
        if messages:
            errors.append(field.invalid(where.child("value"), value, ";".join(messages)))
        errors += effect_errors(effect, False, where.child("effect"))
        if (key, effect) in seen:
            duplicate = field.duplicate(where, internal_form("Taint", taint))
            errors.append(FieldError(duplicate.type, duplicate.field, duplicate.value, TAINTS_DETAIL))
        seen.add((key, effect))
    return errors


def _cidr_errors(cidrs: list[str], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, text in enumerate(cidrs):
        errors += [field.invalid(path.index(index), text, message) for message in formats.cidr(text)]
    if not errors and len(cidrs) > 1:
        versions = [ipaddress.ip_network(text, strict=False).version for text in cidrs]
        if len(cidrs) > 2 or len(set(versions)) < len(versions):
            detail = "may specify no more than one CIDR for each IP family"
            errors.append(field.invalid(path, cidrs, detail))
    return errors


def _status_errors(node: Object) -> list[FieldError]:
    errors: list[FieldError] = []
    status = status_of(node)
    for kind in ("capacity", "allocatable"):
        quantities: Mapping[str, str] = status.get(kind) or {}
        for name in sorted(quantities):
            errors += validate_quantity(name, quantities[name], STATUS.child(kind, name))
    return errors + _feature_errors(status.get("declaredFeatures") or ())


def _address_errors(addresses: Sequence[Object]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[tuple[str, str]] = set()
    for index, address in enumerate(addresses):
        kind, text = address.get("type") or "", address.get("address") or ""
        if (kind, text) in seen:
            errors.append(field.duplicate(STATUS.child("addresses").index(index), {"Type": kind, "Address": text}))
        seen.add((kind, text))
    return errors


def _feature_errors(features: Sequence[str]) -> list[FieldError]:
    """Features are named like types, and sorted."""
    errors: list[FieldError] = []
    for index, name in enumerate(features):
        where = STATUS.child("declaredFeatures").index(index)
        if index and name == features[index - 1]:
            errors.append(field.duplicate(where, name))
        elif index and name < features[index - 1]:
            errors.append(field.invalid(where, name, "list must be sorted alphabetically"))
        if not FEATURE.fullmatch(name):
            errors.append(field.invalid(where, name, f"invalid feature name {quote(name)}: {FEATURE_RULE}"))
    return errors


def _drop_configuration(node: Object) -> None:
    """Kubelets are no longer configured through their nodes: what says so is dropped."""
    (node.get("spec") or {}).pop("configSource", None)
    (node.get("status") or {}).pop("config", None)
