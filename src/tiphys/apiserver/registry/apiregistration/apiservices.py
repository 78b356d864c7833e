"""APIServices: who serves a group and version.

https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, NameRule, Object, RequestContext, age
from tiphys.apiserver.registry.tables import condition
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import format_time

SPEC: Final = Path("spec")
MAX_GROUP_PRIORITY: Final = 20000
MAX_VERSION_PRIORITY: Final = 1000
NAME_DETAIL: Final = 'must be `spec.version+"."+spec.group`'


class APIServiceStrategy(StatusStrategy):
    """Rules of API services."""

    name_rule: ClassVar[NameRule] = NameRule.ANY
    strict_finalizers: ClassVar[bool] = False
    allow_unconditional_update: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        service = (obj.get("spec") or {}).get("service")
        if service is not None and service.get("port") is None:
            service["port"] = 443

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        """What this server serves itself is there from the start."""
        obj["status"] = {}
        if spec_of(obj).get("service") is None:
            local = {
                "type": "Available",
                "status": "True",
                "lastTransitionTime": format_time(ctx.now),
                "reason": "Local",
                "message": "Local APIServices are always available",
            }
            obj["status"] = {"conditions": [local]}

    def validate(self, obj: Object) -> list[FieldError]:
        spec, name = spec_of(obj), name_of(obj)
        version, group = spec.get("version") or "", spec.get("group") or ""
        errors: list[FieldError] = []
        wanted = f"{version}.{group}"
        if name and name != wanted:
            detail = f'{NAME_DETAIL}: "{wanted}"'
            errors.append(field.invalid(Path("metadata").child("name"), name, detail))
        if group:
            errors += [field.invalid(SPEC.child("group"), group, one) for one in formats.dns1123_subdomain(group)]
        errors += [field.invalid(SPEC.child("version"), version, one) for one in formats.dns1035_label(version)]
        for key, highest in (("groupPriorityMinimum", MAX_GROUP_PRIORITY), ("versionPriority", MAX_VERSION_PRIORITY)):
            value = spec.get(key) or 0
            if not 0 < value <= highest:
                detail = f"must be positive and less than {highest}"
                errors.append(field.invalid(SPEC.child(key), value, detail))
        return errors + _service_errors(spec)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        service = spec_of(obj).get("service")
        place = "Local" if service is None else f"{service.get('namespace')}/{service.get('name')}"
        return [name_of(obj), place, _available(obj), age(obj, now)]


def _available(obj: Object) -> str:
    found = condition(obj, "Available")
    if found is None:
        return "Unknown"
    status = str(found.get("status"))
    return status if status == "True" else f"{status} ({found.get('reason')})"


def _service_errors(spec: Object) -> list[FieldError]:
    service, insecure = spec.get("service"), bool(spec.get("insecureSkipTLSVerify"))
    where = SPEC.child("insecureSkipTLSVerify")
    if service is None:
        errors: list[FieldError] = []
        if spec.get("caBundle"):
            detail = "local APIServices may not have a caBundle"
            errors.append(field.invalid(SPEC.child("caBundle"), f"{len(spec['caBundle'])} bytes", detail))
        if insecure:
            detail = "local APIServices may not have insecureSkipTLSVerify"
            errors.append(field.invalid(where, True, detail))
        return errors
    errors = []
    for name in ("namespace", "name"):
        if not service.get(name):
            errors.append(field.required(SPEC.child("service", name), ""))
    port = service.get("port")
    if port is not None:
        for message in formats.port_number(port):
            errors.append(field.invalid(SPEC.child("service", "port"), port, f"port is not valid: {message}"))
    if insecure and spec.get("caBundle"):
        errors.append(field.invalid(where, True, "may not be true if caBundle is present"))
    return errors
