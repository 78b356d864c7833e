"""Roles and bindings: their rules, subjects and references.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiphys.apiserver.registry.strategy import Object
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

GROUP: Final = "rbac.authorization.k8s.io"
SUBJECT_KINDS: Final = ("ServiceAccount", "User", "Group")


def rule_errors(rules: Sequence[Object], namespaced: bool) -> list[FieldError]:
    """Errors of the rules of a role; only cluster roles may speak of URLs that are no resources."""
    errors: list[FieldError] = []
    for index, rule in enumerate(rules):
        path = Path("rules").index(index)
        urls = list(rule.get("nonResourceURLs") or ())
        if not rule.get("verbs"):
            errors.append(field.required(path.child("verbs"), "verbs must contain at least one value"))
        if urls:
            where = path.child("nonResourceURLs")
            if namespaced:
                errors.append(field.invalid(where, urls, "namespaced rules cannot apply to non-resource URLs"))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                errors.append(field.invalid(where, urls, detail))
            continue
        if not rule.get("apiGroups"):
            errors.append(field.required(path.child("apiGroups"), "resource rules must supply at least one api group"))
        if not rule.get("resources"):
            errors.append(field.required(path.child("resources"), "resource rules must supply at least one resource"))
    return errors


def default_binding(binding: Object) -> None:
    """Groups of the role reference and of the subjects."""
    reference = binding.setdefault("roleRef", {})
    if not reference.get("apiGroup"):
        reference["apiGroup"] = GROUP
    for subject in binding.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = GROUP


def binding_errors(binding: Object, role_kinds: Sequence[str], namespaced: bool) -> list[FieldError]:
    """Errors of a binding: the role it refers to, then who gets it."""
    reference = binding.get("roleRef") or {}
    path = Path("roleRef")
    errors: list[FieldError] = []
    if (reference.get("apiGroup") or "") != GROUP:
        errors.append(field.not_supported(path.child("apiGroup"), reference.get("apiGroup") or "", [GROUP]))
    kind, name = reference.get("kind") or "", reference.get("name") or ""
    if kind not in role_kinds:
        errors.append(field.not_supported(path.child("kind"), kind, role_kinds))
    if not name:
        errors.append(field.required(path.child("name"), ""))
    else:
        errors += [field.invalid(path.child("name"), name, message) for message in formats.path_segment(name)]
    for index, subject in enumerate(binding.get("subjects") or ()):
        errors += _subject_errors(subject, namespaced, Path("subjects").index(index))
    return errors


def _subject_errors(subject: Object, namespaced: bool, path: Path) -> list[FieldError]:
    kind, name, group = subject.get("kind") or "", subject.get("name") or "", subject.get("apiGroup") or ""
    errors: list[FieldError] = []
    if not name:
        errors.append(field.required(path.child("name"), ""))
    match kind:
        case "ServiceAccount":
            if name:
                errors += [field.invalid(path.child("name"), name, one) for one in formats.dns1123_subdomain(name)]
            if group:
                errors.append(field.not_supported(path.child("apiGroup"), group, [""]))
            if not namespaced and not subject.get("namespace"):
                errors.append(field.required(path.child("namespace"), ""))
        case "User" | "Group":
            if group != GROUP:
                errors.append(field.not_supported(path.child("apiGroup"), group, [GROUP]))
        case _:
            errors.append(field.not_supported(path.child("kind"), kind, SUBJECT_KINDS))
    return errors
