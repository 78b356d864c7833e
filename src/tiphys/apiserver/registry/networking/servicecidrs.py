"""ServiceCIDRs: where cluster IPs come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.validation.internal import internal_form
from tiphys.apiserver.registry.validation.meta import IMMUTABLE
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

CIDRS: Final = Path("spec").child("cidrs")
FAMILY_DETAIL: Final = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"


class ServiceCIDRStrategy(StatusStrategy):
    """One or two CIDRs of different families; a second one may be added once."""

    status_alone: ClassVar[bool] = True

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        cidrs: list[str] = list(spec.get("cidrs") or ())
        if not cidrs:
            return [field.required(CIDRS, "at least one CIDR required")]
        if len(cidrs) > 2:
            return [field.invalid(CIDRS, internal_form("ServiceCIDRSpec", spec), "may only hold up to 2 values")]
        errors: list[FieldError] = []
        for index, text in enumerate(cidrs):
            messages = formats.canonical_cidr(text)
            errors += [field.invalid(CIDRS.index(index), text, message) for message in messages]
        if not errors and len({ipaddress.ip_network(text).version for text in cidrs}) < len(cidrs):
            errors.append(field.invalid(CIDRS, cidrs, FAMILY_DETAIL))
        return errors

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        now, before = list(spec_of(new).get("cidrs") or ()), list(spec_of(old).get("cidrs") or ())
        if len(before) == 1 and len(now) == 2:
            if now[0] != before[0]:
                return [field.invalid(CIDRS.index(0), now[0], IMMUTABLE)]
            return self.validate(new)
        if len(now) != len(before):
            return [field.invalid(CIDRS, now or None, IMMUTABLE)]
        pairs = enumerate(zip(now, before, strict=True))
        return [field.invalid(CIDRS.index(index), text, IMMUTABLE) for index, (text, known) in pairs if text != known]

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return [name_of(obj), ",".join(spec_of(obj).get("cidrs") or ()), age(obj, now)]
