"""Validating and mutating admission policies, and their bindings.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/

Whether expressions compile is judged where they are evaluated (`admission/policies`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from tiphys.apiserver.admission.policies.check import AUDITED, BOOL, MUTATIONS, STRING, PolicyExpressions
from tiphys.apiserver.registry.admissionregistration.rules import (
    FAILURE_POLICIES,
    default_match_resources,
    match_condition_errors,
    match_resources_errors,
    mutable_operation_errors,
)
from tiphys.apiserver.registry.kinds import TableStrategy, name_of, spec_of
from tiphys.apiserver.registry.strategy import Cell, Object, RequestContext, age
from tiphys.apiserver.registry.tables import UNSET
from tiphys.apiserver.registry.validation.meta import validate_label_name
from tiphys.apiserver.registry.validation.selectors import validate_label_selector
from tiphys.machinery import field, formats
from tiphys.machinery.cel.parser import RESERVED
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
REASONS: Final = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
SUPPORTED_REASONS: Final = ("Forbidden", "Invalid", "RequestEntityTooLarge")
ACTIONS: Final = ("Audit", "Deny", "Warn")
CONDITION_STATUSES: Final = ("False", "True", "Unknown")
MAX_AUDITS: Final = 20
MAX_AUDIT_EXPRESSION: Final = 5 * 1024
NOTHING: Final = "validations or auditAnnotations must contain at least one item"
CEL_IDENTIFIER: Final = re.compile("[_a-zA-Z][_a-zA-Z0-9]*")
KEPT_WORDS: Final = frozenset({"true", "false", "null", "in"}) | RESERVED


class AdmissionPolicyStrategy(TableStrategy):
    """What both kinds of policies have."""

    allow_unconditional_update: ClassVar[bool] = False
    strict_finalizers: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("failurePolicy") is None:
            spec["failurePolicy"] = "Fail"
        default_match_resources(spec.get("matchConstraints"))

    mutating: ClassVar[bool] = False

    def shared_errors(self, spec: Json, expressions: PolicyExpressions) -> list[FieldError]:
        """Errors of parameters, matching and variables."""
        errors: list[FieldError] = []
        policy = spec.get("failurePolicy")
        if policy is None:
            errors.append(field.required(SPEC.child("failurePolicy"), ""))
        elif policy not in FAILURE_POLICIES:
            errors.append(field.not_supported(SPEC.child("failurePolicy"), policy, FAILURE_POLICIES))
        if spec.get("paramKind") is not None:
            errors += _param_kind_errors(spec["paramKind"], SPEC.child("paramKind"))
        constraints = spec.get("matchConstraints")
        where = SPEC.child("matchConstraints")
        if constraints is None:
            errors.append(field.required(where, ""))
        else:
            errors += match_resources_errors(constraints, where)
            if not constraints.get("resourceRules"):
                errors.append(field.required(where.child("resourceRules"), ""))
            if self.mutating:
                errors += mutable_operation_errors(constraints, where)
        conditions = spec.get("matchConditions") or ()
        errors += match_condition_errors(conditions, SPEC.child("matchConditions"), expressions.condition)
        return errors + _variable_errors(spec.get("variables") or (), SPEC.child("variables"), expressions)


class ValidatingAdmissionPolicyStrategy(AdmissionPolicyStrategy):
    """Expressions that judge."""

    status_alone: ClassVar[bool] = True

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = {}

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        expressions = PolicyExpressions(spec, mutating=False)
        errors = self.shared_errors(spec, expressions)
        validations, audits = spec.get("validations") or (), spec.get("auditAnnotations") or ()
        if not validations and not audits:
            errors.append(field.required(SPEC.child("validations"), NOTHING))
            errors.append(field.required(SPEC.child("auditAnnotations"), NOTHING))
            return errors
        for index, validation in enumerate(validations):
            errors += _validation_errors(validation, SPEC.child("validations").index(index), expressions)
        where = SPEC.child("auditAnnotations")
        if len(audits) > MAX_AUDITS:
            shown = [
                {"Key": one.get("key") or "", "ValueExpression": one.get("valueExpression") or ""} for one in audits
            ]
            errors.append(field.invalid(where, shown, f"must not have more than {MAX_AUDITS} auditAnnotations"))
        seen: set[str] = set()
        for index, audit in enumerate(audits):
            errors += _audit_errors(audit, name_of(obj), seen, where.index(index), expressions)
        return errors

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        conditions = (new.get("status") or {}).get("conditions") or ()
        return _condition_errors(conditions, Path("status").child("conditions"))

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        return [name_of(obj), len(spec.get("validations") or ()), _param_kind_text(spec), age(obj, now)]


class MutatingAdmissionPolicyStrategy(AdmissionPolicyStrategy):
    """Expressions that change."""

    mutating: ClassVar[bool] = True

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        expressions = PolicyExpressions(spec, mutating=True)
        errors = self.shared_errors(spec, expressions)
        mutations = spec.get("mutations") or ()
        if not mutations:
            errors.append(field.required(SPEC.child("mutations"), "mutations must contain at least one item"))
        for index, mutation in enumerate(mutations):
            errors += _mutation_errors(mutation, SPEC.child("mutations").index(index), expressions)
        policy = spec.get("reinvocationPolicy") or ""
        where = SPEC.child("reinvocationPolicy")
        if not policy:
            errors.append(field.required(where, ""))
        elif policy not in ("IfNeeded", "Never"):
            errors.append(field.not_supported(where, policy, ["IfNeeded", "Never"]))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        return [name_of(obj), len(spec.get("mutations") or ()), _param_kind_text(spec), age(obj, now)]


class AdmissionPolicyBindingStrategy(TableStrategy):
    """Where a policy holds, and with which parameters."""

    mutating: ClassVar[bool] = True

    allow_unconditional_update: ClassVar[bool] = False
    strict_finalizers: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        default_match_resources((obj.get("spec") or {}).get("matchResources"))

    def validate(self, obj: Object) -> list[FieldError]:
        spec = spec_of(obj)
        name = spec.get("policyName") or ""
        where = SPEC.child("policyName")
        errors: list[FieldError] = []
        if not name:
            errors.append(field.required(where, ""))
        else:
            errors += [field.invalid(where, name, message) for message in formats.dns1123_subdomain(name)]
        if spec.get("paramRef") is not None:
            errors += _param_ref_errors(spec["paramRef"], SPEC.child("paramRef"))
        if spec.get("matchResources") is not None:
            errors += match_resources_errors(spec["matchResources"], SPEC.child("matchResources"))
            if self.mutating:
                errors += mutable_operation_errors(spec["matchResources"], SPEC.child("matchResources"))
        return errors

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        spec = spec_of(obj)
        return [name_of(obj), spec.get("policyName") or "", _param_ref_text(spec.get("paramRef")), age(obj, now)]


class ValidatingAdmissionPolicyBindingStrategy(AdmissionPolicyBindingStrategy):
    """It also says what happens to what the policy refuses."""

    mutating: ClassVar[bool] = False

    def validate(self, obj: Object) -> list[FieldError]:
        errors = super().validate(obj)
        actions = list(spec_of(obj).get("validationActions") or ())
        where = SPEC.child("validationActions")
        if not actions:
            errors.append(field.required(where, "at least one validation action is required"))
        for index, action in enumerate(actions):
            if action not in ACTIONS:
                errors.append(field.not_supported(where.index(index), action, ACTIONS))
            if action in actions[:index]:
                errors.append(field.duplicate(where.index(index), action))
        if "Deny" in actions and "Warn" in actions:
            detail = (
                "must not contain both Deny and Warn (repeating the same validation failure information in the API "
                "response and headers serves no purpose)"
            )
            errors.append(field.invalid(where, actions, detail))
        return errors


def _condition_errors(conditions: Sequence[Json], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, one in enumerate(conditions):
        where, kind, status = path.index(index), one.get("type") or "", one.get("status") or ""
        errors += validate_label_name(kind, where.child("type"))
        if kind in seen:
            errors.append(field.duplicate(where.child("type"), kind))
        seen.add(kind)
        if status not in CONDITION_STATUSES:
            errors.append(field.not_supported(where.child("status"), status, CONDITION_STATUSES))
    return errors


def _param_kind_text(spec: Json) -> str:
    """`v1/ConfigMap`."""
    kind = spec.get("paramKind")
    return UNSET if kind is None else f"{kind.get('apiVersion')}/{kind.get('kind')}"


def _param_ref_text(reference: Json | None) -> str:
    """A reference by name as `namespace/name`, one by selector as the API has always shown it."""
    if reference is None:
        return UNSET
    if reference.get("name"):
        namespace = reference.get("namespace")
        return f"{namespace}/{reference['name']}" if namespace else str(reference["name"])
    selector = reference.get("selector")
    if selector is None:
        return UNSET
    labels = " ".join(f"{key}: {value}," for key, value in sorted((selector.get("matchLabels") or {}).items()))
    expressions = "".join(
        f"LabelSelectorRequirement{{Key:{one.get('key')},Operator:{one.get('operator')},"
        f"Values:[{' '.join(one.get('values') or ())}],}},"
        for one in selector.get("matchExpressions") or ()
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )


def _param_kind_errors(kind: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    version, name = kind.get("apiVersion") or "", kind.get("kind") or ""
    if not version:
        errors.append(field.required(path.child("apiVersion"), ""))
    elif version.count("/") > 1:
        detail = f"unexpected GroupVersion string: {version}"
        errors.append(field.invalid(path.child("apiVersion"), version, detail))
    else:
        group, slash, version = version.rpartition("/")
        where = path.child("apiVersion")
        if slash:
            errors += [field.invalid(where, group, message) for message in formats.dns1123_subdomain(group)]
        errors += [field.invalid(where, version, message) for message in formats.dns1035_label(version)]
    if not name:
        errors.append(field.required(path.child("kind"), ""))
    else:
        mixed = "may have mixed case, but should otherwise match: "
        problems = formats.dns1035_label(name.lower())
        errors += [field.invalid(path.child("kind"), name, mixed + message) for message in problems]
    return errors


def _param_ref_errors(reference: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    name, selector = reference.get("name") or "", reference.get("selector")
    if name:
        errors += [field.invalid(path.child("name"), name, message) for message in formats.path_segment(name)]
        if selector is not None:
            detail = "name and selector are mutually exclusive"
            errors.append(field.forbidden(path.child("name"), detail))
    elif selector is None:
        errors.append(field.required(path, "one of name or selector must be specified"))
    errors += validate_label_selector(selector, path.child("selector"))
    if name and selector is not None:
        errors.append(field.forbidden(path.child("selector"), "name and selector are mutually exclusive"))
    action = reference.get("parameterNotFoundAction")
    where = path.child("parameterNotFoundAction")
    if not action:
        errors.append(field.required(where, ""))
    elif action not in ("Deny", "Allow"):
        errors.append(field.not_supported(where, action, ["Deny", "Allow"]))
    return errors


def _variable_errors(variables: Sequence[Json], path: Path, expressions: PolicyExpressions) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, variable in enumerate(variables):
        where = path.index(index)
        name, source = variable.get("name") or "", variable.get("expression") or ""
        good = bool(CEL_IDENTIFIER.fullmatch(name)) and name not in KEPT_WORDS
        if not name:
            errors.append(field.required(where.child("name"), "name is not specified"))
        elif not good:
            errors.append(field.invalid(where.child("name"), name, "must be a valid CEL identifier"))
        if not source.strip():
            errors.append(field.required(where.child("expression"), "expression is not specified"))
        else:
            errors += expressions.variable(name if good else "", source, where.child("expression"))
    return errors


def _validation_errors(validation: Json, path: Path, expressions: PolicyExpressions) -> list[FieldError]:
    errors: list[FieldError] = []
    source, told = validation.get("expression") or "", validation.get("messageExpression") or ""
    message = validation.get("message") or ""
    if not source.strip():
        errors.append(field.required(path.child("expression"), "expression is not specified"))
    else:
        errors += expressions.value(source, path.child("expression"), BOOL)
    if told and not told.strip():
        errors.append(field.invalid(path.child("messageExpression"), told, "must be non-empty if specified"))
    elif told:
        errors += expressions.value(told, path.child("messageExpression"), STRING)
    if message and not message.strip():
        errors.append(field.invalid(path.child("message"), message, "must be non-empty if specified"))
    elif "\n" in message.strip() or "\r" in message.strip():
        errors.append(field.invalid(path.child("message"), message, "must not contain line breaks"))
    reason = validation.get("reason")
    if reason is not None and reason not in REASONS:
        errors.append(field.not_supported(path.child("reason"), reason, SUPPORTED_REASONS))
    return errors


def _audit_errors(
    audit: Json, policy: str, seen: set[str], path: Path, expressions: PolicyExpressions
) -> list[FieldError]:
    errors: list[FieldError] = []
    key, source = audit.get("key") or "", audit.get("valueExpression") or ""
    if policy:
        errors += validate_label_name(f"{policy}/{key}", path.child("key"))
    else:
        errors.append(field.invalid(path.child("key"), key, "requires metadata.name be non-empty"))
    at = path.child("valueExpression")
    if not source.strip():
        errors.append(field.required(at, "valueExpression is not specified"))
    elif len(source.strip()) > MAX_AUDIT_EXPRESSION:
        errors.append(field.required(at, f"must not exceed {MAX_AUDIT_EXPRESSION} bytes in length"))
    else:
        errors += expressions.value(source, at, AUDITED)
    if key in seen:
        errors.append(field.duplicate(path.child("key"), key))
    seen.add(key)
    return errors


def _mutation_errors(mutation: Json, path: Path, expressions: PolicyExpressions) -> list[FieldError]:
    kind = mutation.get("patchType") or ""
    where = path.child("patchType")
    if not kind:
        return [field.required(where, "")]
    if kind not in ("ApplyConfiguration", "JSONPatch"):
        return [field.not_supported(where, kind, ["ApplyConfiguration", "JSONPatch"])]
    wanted, other = (
        ("applyConfiguration", "jsonPatch") if kind == "ApplyConfiguration" else ("jsonPatch", "applyConfiguration")
    )
    errors: list[FieldError] = []
    source = mutation.get(wanted)
    if source is None:
        errors.append(field.required(path.child(wanted), f"must be specified when patchType is {kind}"))
    elif not (source.get("expression") or "").strip():
        errors.append(field.required(path.child(wanted, "expression"), ""))
    else:
        errors += expressions.value(source["expression"], path.child(wanted, "expression"), MUTATIONS[wanted])
    if mutation.get(other) is not None:
        errors.append(
            field.invalid(path.child(other), f"{{{other}}}", f"must not be specified when patchType is {kind}")
        )
    return errors
