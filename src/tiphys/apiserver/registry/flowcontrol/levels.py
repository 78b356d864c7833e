"""FlowSchemas and PriorityLevelConfigurations.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.registry.flowcontrol.mandatory import mandatory_errors
from tiphys.apiserver.registry.flowcontrol.rules import rule_errors
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, age
from tiphys.apiserver.registry.tables import NONE, condition
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
MAX_PRECEDENCE: Final = 10000
MAX_QUEUES: Final = 10 * 1000 * 1000
METHODS: Final = ("ByNamespace", "ByUser")
# The bits of a request's hash that choose its queues.
MAX_HASH_BITS: Final = 60


class FlowSchemaStrategy(StatusStrategy):
    """Which requests go to which priority level."""

    status_alone: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("matchingPrecedence"):
            spec["matchingPrecedence"] = 1000

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        errors: list[FieldError] = []
        precedence = spec.get("matchingPrecedence") or 0
        if precedence <= 0:
            errors.append(field.invalid(SPEC.child("matchingPrecedence"), precedence, "must be a positive value"))
        if precedence > MAX_PRECEDENCE:
            detail = f"must not be greater than {MAX_PRECEDENCE}"
            errors.append(field.invalid(SPEC.child("matchingPrecedence"), precedence, detail))
        if precedence == 1 and name_of(obj) != "exempt":
            detail = "only the schema named 'exempt' may have matchingPrecedence 1"
            errors.append(field.invalid(SPEC.child("matchingPrecedence"), precedence, detail))
        method = spec.get("distinguisherMethod")
        if method is not None and (method.get("type") or "") not in METHODS:
            where = SPEC.child("distinguisherMethod", "type")
            errors.append(field.not_supported(where, {"Type": method.get("type") or ""}, METHODS))
        errors += _level_errors(spec)
        for index, rule in enumerate(spec.get("rules") or ()):
            errors += rule_errors(rule, SPEC.child("rules").index(index))
        return errors + mandatory_errors("FlowSchemaSpec", name_of(obj), spec)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        dangling = condition(obj, "Dangling")
        return [
            name_of(obj),
            (spec.get("priorityLevelConfiguration") or {}).get("name") or "",
            spec.get("matchingPrecedence") or 0,
            (spec.get("distinguisherMethod") or {}).get("type") or NONE,
            age(obj, now),
            "?" if dangling is None else str(dangling.get("status")),
        ]


def _level_errors(spec: Json) -> list[FieldError]:
    name = (spec.get("priorityLevelConfiguration") or {}).get("name") or ""
    where = SPEC.child("priorityLevelConfiguration", "name")
    if not name:
        return [field.required(where, "must reference a priority level")]
    return [field.invalid(where, name, message) for message in formats.dns1123_subdomain(name)]


class PriorityLevelConfigurationStrategy(StatusStrategy):
    """How many requests of a level run at once, and what happens to the others."""

    status_alone: ClassVar[bool] = True

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        limited, exempt = spec.get("limited"), spec.get("exempt")
        if limited is not None:
            _fill(limited, nominalConcurrencyShares=30, lendablePercent=0)
            queuing = (limited.get("limitResponse") or {}).get("queuing")
            if queuing is not None:
                for name, value in (("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)):
                    if not queuing.get(name):
                        queuing[name] = value
        if exempt is None and spec.get("type") == "Exempt":
            exempt = spec["exempt"] = {}
        if exempt is not None:
            _fill(exempt, nominalConcurrencyShares=0, lendablePercent=0)

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        kind = spec.get("type") or ""
        errors: list[FieldError] = []
        if (name_of(obj) == "exempt") != (kind == "Exempt"):
            detail = "must be 'Exempt' if and only if `name` is 'exempt'"
            errors.append(field.invalid(SPEC.child("type"), kind, detail))
        if kind == "Exempt":
            if spec.get("limited") is not None:
                errors.append(field.forbidden(SPEC.child("limited"), "must be nil if the type is not Limited"))
            errors += _shares_errors(spec.get("exempt") or {}, SPEC.child("exempt"))
        elif kind == "Limited":
            if spec.get("exempt") is not None:
                errors.append(field.forbidden(SPEC.child("exempt"), "must be nil if the type is Limited"))
            if spec.get("limited") is None:
                errors.append(field.required(SPEC.child("limited"), "must not be empty when type is Limited"))
            else:
                errors += _limited_errors(spec["limited"], SPEC.child("limited"))
        else:
            errors.append(field.not_supported(SPEC.child("type"), kind, ["Exempt", "Limited"]))
        return errors + mandatory_errors("PriorityLevelConfigurationSpec", name_of(obj), spec)

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        limited = spec.get("limited")
        queuing = ((limited or {}).get("limitResponse") or {}).get("queuing")
        shares: Cell = NONE if limited is None else limited.get("nominalConcurrencyShares")
        names = ("queues", "handSize", "queueLengthLimit")
        cells = [NONE if queuing is None else queuing.get(name) for name in names]
        return [name_of(obj), spec.get("type") or "", shares, *cells, age(obj, now)]


def _fill(target: Object, **defaults: int) -> None:
    for name, value in defaults.items():
        if target.get(name) is None:
            target[name] = value


def _shares_errors(level: Json, path: Path) -> list[FieldError]:
    """What every level says: its shares, and how much of them it lends."""
    errors: list[FieldError] = []
    shares, lent = level.get("nominalConcurrencyShares"), level.get("lendablePercent")
    if shares is not None and shares < 0:
        errors.append(field.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer"))
    if lent is not None and not 0 <= lent <= 100:
        errors.append(field.invalid(path.child("lendablePercent"), lent, "must be between 0 and 100, inclusive"))
    return errors


def _limited_errors(limited: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    response = limited.get("limitResponse") or {}
    kind, queuing = response.get("type") or "", response.get("queuing")
    where = path.child("limitResponse")
    if kind == "Reject":
        if queuing is not None:
            detail = "must be nil if limited.limitResponse.type is not Limited"
            errors.append(field.forbidden(where.child("queuing"), detail))
    elif kind == "Queue":
        if queuing is None:
            detail = "must not be empty if limited.limitResponse.type is Limited"
            errors.append(field.required(where.child("queuing"), detail))
        else:
            errors += _queuing_errors(queuing, where.child("queuing"))
    else:
        errors.append(field.not_supported(where.child("type"), kind, ["Queue", "Reject"]))
    borrowed = limited.get("borrowingLimitPercent")
    if borrowed is not None and borrowed < 0:
        detail = "if specified, must be a non-negative integer"
        errors.append(field.invalid(path.child("borrowingLimitPercent"), borrowed, detail))
    return [*_shares_errors(limited, path), *errors]


def _queuing_errors(queuing: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("queueLengthLimit", "queues", "handSize"):
        value = queuing.get(name) or 0
        if value <= 0:
            errors.append(field.invalid(path.child(name), value, "must be positive"))
    queues, hand = queuing.get("queues") or 0, queuing.get("handSize") or 0
    if queues > MAX_QUEUES:
        errors.append(field.invalid(path.child("queues"), queues, f"must not be greater than {MAX_QUEUES}"))
    if hand > queues:
        detail = f"should not be greater than queues ({queues})"
        errors.append(field.invalid(path.child("handSize"), hand, detail))
    elif queues > 0 and math.ceil(math.log2(queues) * hand) > MAX_HASH_BITS:
        detail = (
            f"required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        )
        errors.append(field.invalid(path.child("handSize"), hand, detail))
    return errors
