"""FlowSchemas and PriorityLevelConfigurations.

https://kubernetes.io/docs/concepts/cluster-administration/flow-control/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

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
SUBJECTS: Final = {"User": "user", "Group": "group", "ServiceAccount": "serviceAccount"}


class FlowSchemaStrategy(StatusStrategy):
    """Which requests go to which priority level."""

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
            errors.append(field.not_supported(SPEC.child("distinguisherMethod"), dict(method), METHODS))
        errors += _level_errors(spec)
        for index, rule in enumerate(spec.get("rules") or ()):
            errors += _rule_errors(rule, SPEC.child("rules").index(index))
        return errors

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


def _rule_errors(rule: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    subjects = rule.get("subjects") or ()
    if not subjects:
        errors.append(field.required(path.child("subjects"), "subjects must contain at least one value"))
    for index, subject in enumerate(subjects):
        errors += _subject_errors(subject, path.child("subjects").index(index))
    resources, urls = rule.get("resourceRules") or (), rule.get("nonResourceRules") or ()
    if not resources and not urls:
        detail = "at least one of resourceRules and nonResourceRules has to be non-empty"
        errors.append(field.required(path, detail))
    for index, one in enumerate(resources):
        errors += _resource_errors(one, path.child("resourceRules").index(index))
    for index, one in enumerate(urls):
        where = path.child("nonResourceRules").index(index)
        for name, words in (("verbs", "verbs"), ("nonResourceURLs", "nonResourceURLs")):
            if not one.get(name):
                errors.append(field.required(where.child(name), f"{words} must contain at least one value"))
    return errors


def _subject_errors(subject: Json, path: Path) -> list[FieldError]:
    kind = subject.get("kind") or ""
    if kind not in SUBJECTS:
        return [field.not_supported(path.child("kind"), kind, ["Group", "ServiceAccount", "User"])]
    errors: list[FieldError] = []
    for one, name in SUBJECTS.items():
        value = subject.get(name)
        if one == kind and value is None:
            errors.append(field.required(path.child(name), f"{name} is required when subject kind is '{kind}'"))
        elif one != kind and value is not None:
            detail = f"{name} is forbidden when subject kind is not '{one}'"
            errors.append(field.forbidden(path.child(name), detail))
        elif value is not None and not value.get("name"):
            errors.append(field.required(path.child(name, "name"), ""))
    return errors


def _resource_errors(rule: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name, words in (
        ("verbs", "verbs must contain at least one value"),
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ):
        if not rule.get(name):
            errors.append(field.required(path.child(name), words))
    if not rule.get("namespaces") and not rule.get("clusterScope"):
        detail = "resource rules that are not cluster scoped must supply at least one namespace"
        errors.append(field.required(path.child("namespaces"), detail))
    return errors


class PriorityLevelConfigurationStrategy(StatusStrategy):
    """How many requests of a level run at once, and what happens to the others."""

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
            detail = "type must be 'Exempt' if and only if name is 'exempt'"
            errors.append(field.invalid(SPEC.child("type"), kind, detail))
        if kind == "Exempt":
            if spec.get("limited") is not None:
                errors.append(field.forbidden(SPEC.child("limited"), "must be nil if the type is not Limited"))
        elif kind == "Limited":
            if spec.get("exempt") is not None:
                errors.append(field.forbidden(SPEC.child("exempt"), "must be nil if the type is Limited"))
            if spec.get("limited") is None:
                errors.append(field.required(SPEC.child("limited"), "must not be empty when type is Limited"))
            else:
                errors += _limited_errors(spec["limited"], SPEC.child("limited"))
        else:
            errors.append(field.not_supported(SPEC.child("type"), kind, ["Exempt", "Limited"]))
        return errors

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


def _limited_errors(limited: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    shares = limited.get("nominalConcurrencyShares")
    if shares is not None and shares < 0:
        detail = "must be a non-negative integer"
        errors.append(field.invalid(path.child("nominalConcurrencyShares"), shares, detail))
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
    for name in ("lendablePercent", "borrowingLimitPercent"):
        percent = limited.get(name)
        if percent is not None and (percent < 0 or (name == "lendablePercent" and percent > 100)):
            errors.append(field.invalid(path.child(name), percent, "must be between 0 and 100, inclusive"))
    return errors


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
    return errors
