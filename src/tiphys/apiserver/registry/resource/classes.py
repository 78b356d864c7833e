"""DeviceClasses, ResourceSlices and DeviceTaintRules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.resource.device import UNSET_OR_TRUE, counter_set_errors, device_errors
from tiphys.apiserver.registry.resource.devices import MAX_CONFIGS, opaque_errors, selectors_errors
from tiphys.apiserver.registry.resource.sets import driver_errors, set_errors
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.validation.meta import validate_immutable
from tiphys.apiserver.registry.validation.resources import is_extended
from tiphys.apiserver.registry.validation.selectors import validate_node_selector
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import format_time

SPEC: Final = Path("spec")
MAX_DEVICES: Final = 128
# With taints or counters an object of more devices would be too large.
MAX_RICH_DEVICES: Final = 64
MAX_COUNTER_SETS: Final = 8
MAX_POOL_NAME: Final = 253
UNUSED_VALUES: Final = ("ints", "bools", "strings", "versions")


class DeviceClassStrategy(TableStrategy):
    """Selectors and configuration for devices of a kind."""

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors = selectors_errors(spec.get("selectors") or (), SPEC.child("selectors"))
        errors += set_errors(spec.get("config") or (), SPEC.child("config"), MAX_CONFIGS, _config_errors)
        name = spec.get("extendedResourceName")
        if name is not None and not is_extended(name):
            detail = "must be a valid extended resource name"
            errors.append(field.invalid(SPEC.child("extendedResourceName"), name, detail))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), age(obj, now)]


def _config_errors(config: Mapping[str, Any], path: Path) -> list[FieldError]:
    return opaque_errors(config.get("opaque"), path.child("opaque"))


class ResourceSliceStrategy(TableStrategy):
    """Devices a driver offers on a node or anywhere."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        _drop_disabled(obj)
        _date_taints(obj, ctx)

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        _drop_disabled(new)
        _date_taints(new, ctx)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        return _pool_and_driver_errors(spec) + self._device_errors(spec)

    def _device_errors(self, spec: Object) -> list[FieldError]:
        errors = _place_errors(spec)
        counters, devices = spec.get("sharedCounters"), spec.get("devices") or ()
        if counters is not None and spec.get("devices") is not None:
            errors.append(field.invalid(SPEC, "", "only one of `sharedCounters` or `devices` is allowed"))
        errors += set_errors(counters or (), SPEC.child("sharedCounters"), MAX_COUNTER_SETS, counter_set_errors, _name)
        rich = any(one.get("taints") or one.get("consumesCounters") for one in devices)
        per_device = bool(spec.get("perDeviceNodeSelection"))
        return errors + set_errors(
            devices,
            SPEC.child("devices"),
            MAX_RICH_DEVICES if rich else MAX_DEVICES,
            lambda device, path: device_errors(device, path, per_device=per_device),
            _name,
        )

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        spec, known = spec_of(new), spec_of(old)
        pool, old_pool = (spec.get("pool") or {}).get("name"), (known.get("pool") or {}).get("name")
        errors = _pool_and_driver_errors(spec) + validate_immutable(pool, old_pool, SPEC.child("pool", "name"))
        for name in ("driver", "nodeName"):
            errors += validate_immutable(spec.get(name), known.get(name), SPEC.child(name))
        return errors + self._device_errors(spec)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        driver = spec_of(obj).get("driver") or ""
        if driver == driver.lower():
            return []
        return [f"spec.driver: driver names should be lowercase; {field.quote(driver)} contains uppercase characters"]

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = spec_of(obj)
        own = {"spec.nodeName": spec.get("nodeName") or "", "spec.driver": spec.get("driver") or ""}
        return super().selectable_fields(obj) | own

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        pool = (spec.get("pool") or {}).get("name") or ""
        return [name_of(obj), spec.get("nodeName") or "", spec.get("driver") or "", pool, age(obj, now)]


def _pool_and_driver_errors(spec: Object) -> list[FieldError]:
    errors = driver_errors(spec.get("driver") or "", SPEC.child("driver"))
    return errors + _pool_errors(spec.get("pool") or {}, SPEC.child("pool"))


def _name(item: Mapping[str, Any]) -> str:
    return item.get("name") or ""


def _drop_disabled(obj: Object) -> None:
    """Fields behind feature gates that are off: attributes of many values, shares of what nodes allocate."""
    for device in (obj.get("spec") or {}).get("devices") or ():
        device.pop("nodeAllocatableResourceMappings", None)
        for attribute in (device.get("attributes") or {}).values():
            for name in UNUSED_VALUES if attribute else ():
                attribute.pop(name, None)


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
    elif len(name.encode()) > MAX_POOL_NAME:
        errors.append(field.too_long(path.child("name"), name, MAX_POOL_NAME))
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
    if node == "":
        errors.append(field.invalid(SPEC.child("nodeName"), "", "must be either unset or set to a non-empty string"))
    elif node is not None:
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
    for name in ("allNodes", "perDeviceNodeSelection"):
        if spec.get(name) is False:
            errors.append(field.invalid(SPEC.child(name), False, UNSET_OR_TRUE))
    chosen = [
        name
        for name, present in (
            ("nodeName", bool(node)),
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
