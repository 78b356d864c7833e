"""DeviceClasses, ResourceSlices and DeviceTaintRules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.resource.devices import opaque_errors, selectors_errors
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.apiserver.registry.validation.selectors import validate_node_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import format_time

SPEC: Final = Path("spec")
MAX_DEVICES: Final = 128


class DeviceClassStrategy(TableStrategy):
    """Selectors and configuration for devices of a kind."""

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = selectors_errors(spec.get("selectors") or (), SPEC.child("selectors"))
        for index, config in enumerate(spec.get("config") or ()):
            errors += opaque_errors(config.get("opaque"), SPEC.child("config").index(index).child("opaque"))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]


class ResourceSliceStrategy(TableStrategy):
    """Devices a driver offers on a node or anywhere."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        _date_taints(obj, ctx)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        _date_taints(new, ctx)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = _pool_errors(spec.get("pool") or {}, SPEC.child("pool"))
        driver = spec.get("driver") or ""
        if not driver:
            errors.append(field.required(SPEC.child("driver"), ""))
        else:
            errors += [field.invalid(SPEC.child("driver"), driver, one) for one in formats.dns1123_subdomain(driver)]
        errors += _place_errors(spec)
        devices = spec.get("devices") or ()
        if len(devices) > MAX_DEVICES:
            errors.append(field.too_many(SPEC.child("devices"), len(devices), MAX_DEVICES))
        seen: set[str] = set()
        for index, device in enumerate(devices):
            name = device.get("name") or ""
            where = SPEC.child("devices").index(index)
            errors += [field.invalid(where.child("name"), name, one) for one in formats.dns1123_label(name)]
            if name in seen:
                errors.append(field.duplicate(where, name))
            seen.add(name)
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        spec, known = spec_of(new), spec_of(old)
        for name in ("driver", "nodeName"):
            errors += validate_immutable(spec.get(name), known.get(name), SPEC.child(name))
        pool, old_pool = (spec.get("pool") or {}).get("name"), (known.get("pool") or {}).get("name")
        return errors + validate_immutable(pool, old_pool, SPEC.child("pool", "name"))

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = spec_of(obj)
        own = {"spec.nodeName": spec.get("nodeName") or "", "spec.driver": spec.get("driver") or ""}
        return super().selectable_fields(obj) | own

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        pool = (spec.get("pool") or {}).get("name") or ""
        return [name_of(obj), spec.get("nodeName") or "", spec.get("driver") or "", pool, age(obj, now)]


def _date_taints(obj: Object, ctx: RequestContext) -> None:
    """When a device was tainted, for those who did not say."""
    for device in (obj.get("spec") or {}).get("devices") or ():
        for taint in device.get("taints") or ():
            if not taint.get("timeAdded"):
                taint["timeAdded"] = format_time(ctx.now)


def _pool_errors(pool: Mapping[str, Any], path: Path) -> list[FieldError]:
    name = pool.get("name") or ""
    errors: list[FieldError] = []
    if not name:
        errors.append(field.required(path.child("name"), ""))
    for part in name.split("/") if name else ():
        errors += [field.invalid(path.child("name"), part, message) for message in formats.dns1123_subdomain(part)]
    if (pool.get("resourceSliceCount") or 0) <= 0:
        where = path.child("resourceSliceCount")
        errors.append(field.invalid(where, pool.get("resourceSliceCount") or 0, "must be greater than zero"))
    if (pool.get("generation") or 0) < 0:
        detail = "must be greater than or equal to zero"
        errors.append(field.invalid(path.child("generation"), pool["generation"], detail))
    return errors


def _place_errors(spec: Object) -> list[FieldError]:
    """Exactly one way to say where the devices are."""
    errors: list[FieldError] = []
    node, selector = spec.get("nodeName"), spec.get("nodeSelector")
    if node is not None:
        errors += [field.invalid(SPEC.child("nodeName"), node, one) for one in formats.dns1123_subdomain(node)]
    if selector is not None:
        errors += validate_node_selector(selector, SPEC.child("nodeSelector"))
        if len(selector.get("nodeSelectorTerms") or ()) != 1:
            detail = "must have exactly one node selector term"
            errors.append(
                field.invalid(
                    SPEC.child("nodeSelector", "nodeSelectorTerms"), selector.get("nodeSelectorTerms"), detail
                )
            )
    chosen = [
        name
        for name, present in (
            ("nodeName", node is not None),
            ("nodeSelector", selector is not None),
            ("allNodes", bool(spec.get("allNodes"))),
            ("perDeviceNodeSelection", bool(spec.get("perDeviceNodeSelection"))),
        )
        if present
    ]
    wanted = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
    if not chosen:
        errors.append(field.required(SPEC, wanted))
    elif len(chosen) > 1:
        shown = "{" + ", ".join(f"`{name}`" for name in chosen) + "}"
        errors.append(field.invalid(SPEC, shown, f"{wanted}, but multiple fields are set"))
    return errors


class DeviceTaintRuleStrategy(StatusStrategy):
    """Taints for devices of others."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        super().prepare_for_create(ctx, obj)
        taint = (obj.get("spec") or {}).get("taint")
        if taint is not None and not taint.get("timeAdded"):
            taint["timeAdded"] = format_time(ctx.now)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]
