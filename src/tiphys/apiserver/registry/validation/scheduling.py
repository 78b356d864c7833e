"""What a pod says about where it runs: tolerations, affinity, spread constraints, gates.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.selectors import (
    validate_label_selector,
    validate_node_selector,
    validate_node_selector_term,
)
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

TAINT_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
EMPTY_KEY_DETAIL: Final = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'


def effect_errors(effect: str, allow_empty: bool, path: Path) -> list[FieldError]:
    if not effect:
        return [] if allow_empty else [field.required(path, "")]
    return [] if effect in TAINT_EFFECTS else [field.not_supported(path, effect, list(TAINT_EFFECTS))]


def validate_tolerations(tolerations: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of `spec.tolerations`."""
    errors: list[FieldError] = []
    for index, toleration in enumerate(tolerations):
        where = path.index(index)
        key, operator = toleration.get("key") or "", toleration.get("operator") or ""
        effect = toleration.get("effect") or ""
        if key:
            errors += validate_label_name(key, where.child("key"))
        elif operator != "Exists":
            errors.append(field.invalid(where.child("operator"), operator, EMPTY_KEY_DETAIL))
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            errors.append(field.invalid(where.child("effect"), effect, detail))
        errors += _operator_errors(toleration, operator, where.child("operator"))
        if effect:
            errors += effect_errors(effect, True, where.child("effect"))
    return errors


def _operator_errors(toleration: Json, operator: str, path: Path) -> list[FieldError]:
    value = toleration.get("value") or ""
    if operator in ("", "Equal"):
        messages = formats.label_value(value)
        return [field.invalid(path, value, ";".join(messages))] if messages else []
    if operator == "Exists":
        if not value:
            return []
        detail = "value must be empty when `operator` is 'Exists'"
        return [field.invalid(path, value, detail)]
    return [field.not_supported(path, operator, ["Equal", "Exists"])]


def validate_affinity(affinity: Json | None, path: Path) -> list[FieldError]:
    """Errors of `spec.affinity`."""
    if not affinity:
        return []
    errors: list[FieldError] = []
    if node := affinity.get("nodeAffinity"):
        errors += _node_affinity_errors(node, path.child("nodeAffinity"))
    for name in ("podAffinity", "podAntiAffinity"):
        if pods := affinity.get(name):
            errors += _pod_affinity_errors(pods, path.child(name))
    return errors


REQUIRED_TERMS: Final = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED_TERMS: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def _node_affinity_errors(affinity: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    if affinity.get(REQUIRED_TERMS) is not None:
        errors += validate_node_selector(affinity[REQUIRED_TERMS], path.child(REQUIRED_TERMS))
    for index, term in enumerate(affinity.get(PREFERRED_TERMS) or ()):
        where = path.child(PREFERRED_TERMS).index(index)
        errors += _weight_errors(term.get("weight", 0), where)
        errors += validate_node_selector_term(
            term.get("preference") or {}, where.child("preference"), label_values=False
        )
    return errors


def _weight_errors(weight: int, path: Path) -> list[FieldError]:
    if 1 <= weight <= 100:
        return []
    return [field.invalid(path.child("weight"), weight, "must be in the range 1-100")]


def _pod_affinity_errors(affinity: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, term in enumerate(affinity.get(REQUIRED_TERMS) or ()):
        errors += _pod_term_errors(term, path.child(REQUIRED_TERMS).index(index))
    for index, weighted in enumerate(affinity.get(PREFERRED_TERMS) or ()):
        where = path.child(PREFERRED_TERMS).index(index)
        errors += _weight_errors(weighted.get("weight", 0), where)
        errors += _pod_term_errors(weighted.get("podAffinityTerm") or {}, where.child("podAffinityTerm"))
    return errors


def _pod_term_errors(term: Json, path: Path) -> list[FieldError]:
    errors = validate_label_selector(term.get("labelSelector"), path.child("labelSelector"))
    errors += validate_label_selector(term.get("namespaceSelector"), path.child("namespaceSelector"))
    for name in term.get("namespaces") or ():
        errors += [field.invalid(path.child("namespace"), name, message) for message in formats.dns1123_label(name)]
    for kind in ("matchLabelKeys", "mismatchLabelKeys"):
        errors += _label_keys_errors(term.get(kind) or (), term.get("labelSelector"), path.child(kind))
    return errors + topology_key_errors(term.get("topologyKey") or "", path.child("topologyKey"))


def topology_key_errors(key: str, path: Path) -> list[FieldError]:
    if not key:
        return [field.required(path, "can not be empty"), *validate_label_name(key, path)]
    return validate_label_name(key, path)


def _label_keys_errors(keys: Sequence[str], selector: Json | None, path: Path) -> list[FieldError]:
    if not keys:
        return []
    if selector is None:
        return [field.forbidden(path, "must not be specified when labelSelector is not set")]
    errors: list[FieldError] = []
    taken = set(selector.get("matchLabels") or ()) | {one.get("key") for one in selector.get("matchExpressions") or ()}
    for index, key in enumerate(keys):
        where = path.index(index)
        errors += validate_label_name(key, where)
        if key in taken:
            errors.append(field.invalid(where, key, "exists in both matchLabelKeys and labelSelector"))
    return errors


def validate_spread_constraints(constraints: Sequence[Json], path: Path) -> list[FieldError]:
    """Errors of `spec.topologySpreadConstraints`."""
    errors: list[FieldError] = []
    for index, constraint in enumerate(constraints):
        where = path.index(index)
        skew, key = constraint.get("maxSkew", 0), constraint.get("topologyKey") or ""
        action = constraint.get("whenUnsatisfiable") or ""
        if skew <= 0:
            errors.append(field.invalid(where.child("maxSkew"), skew, "must be greater than zero"))
        if not key:
            errors.append(field.required(where.child("topologyKey"), "can not be empty"))
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            errors.append(
                field.not_supported(where.child("whenUnsatisfiable"), action, ["DoNotSchedule", "ScheduleAnyway"])
            )
        later = ((one.get("topologyKey") or "", one.get("whenUnsatisfiable") or "") for one in constraints[index + 1 :])
        if (key, action) in later:
            at = where.child("{topologyKey, whenUnsatisfiable}")
            errors.append(field.duplicate(at, f"{{{key}, {action}}}"))
        errors += _domains_errors(constraint, action, where)
        for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            value = constraint.get(name)
            if value is not None and value not in ("Honor", "Ignore"):
                errors.append(field.not_supported(where.child(name), value, ["Honor", "Ignore"]))
        keys = constraint.get("matchLabelKeys") or ()
        errors += _label_keys_errors(keys, constraint.get("labelSelector"), where.child("matchLabelKeys"))
        errors += validate_label_selector(constraint.get("labelSelector"), where.child("labelSelector"))
    return errors


def _domains_errors(constraint: Json, action: str, path: Path) -> list[FieldError]:
    minimum = constraint.get("minDomains")
    if minimum is None:
        return []
    errors: list[FieldError] = []
    where = path.child("minDomains")
    if minimum <= 0:
        errors.append(field.invalid(where, minimum, "must be greater than zero"))
    if action != "DoNotSchedule":
        detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
        errors.append(field.invalid(where, minimum, detail))
    return errors


def validate_readiness_gates(gates: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, gate in enumerate(gates):
        errors += validate_label_name(gate.get("conditionType") or "", path.index(index).child("conditionType"))
    return errors


def validate_scheduling_gates(gates: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, gate in enumerate(gates):
        name = gate.get("name") or ""
        errors += validate_label_name(name, path.index(index))
        if name in seen:
            errors.append(field.duplicate(path.index(index), name))
        seen.add(name)
    return errors
