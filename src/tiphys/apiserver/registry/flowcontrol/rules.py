"""Which requests a flow schema is for: subjects, resources, paths.

https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/flow-schema-v1/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

Json = Mapping[str, Any]

SUBJECTS: Final = {"User": "user", "Group": "group", "ServiceAccount": "serviceAccount"}
VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch")
ANY: Final = "*"
NO_NAMESPACE: Final = "resource rules that are not cluster scoped must supply at least one namespace"


def rule_errors(rule: Json, path: Path) -> list[FieldError]:
    """Errors of one rule."""
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
        errors += _url_rule_errors(one, path.child("nonResourceRules").index(index))
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
        if one == kind == "ServiceAccount" and value is not None:
            errors += _account_errors(value, path.child(name))
    return errors


def _account_errors(account: Json, path: Path) -> list[FieldError]:
    name, namespace = account.get("name") or "", account.get("namespace") or ""
    errors: list[FieldError] = []
    if name and name != ANY:
        errors += [field.invalid(path.child("name"), name, one) for one in formats.dns1123_subdomain(name)]
    if not namespace:
        errors.append(field.required(path.child("namespace"), "must specify namespace for service account"))
    else:
        errors += [field.invalid(path.child("namespace"), namespace, one) for one in formats.dns1123_label(namespace)]
    return errors


def _alone_errors(values: Sequence[str], what: str, path: Path) -> list[FieldError]:
    """Everything, or a list without `*`."""
    if len(values) > 1 and ANY in values:
        return [field.invalid(path, list(values), f"if '*' is present, must not specify other {what}")]
    return []


def _verb_errors(verbs: Sequence[str], path: Path) -> list[FieldError]:
    if not verbs:
        return [field.required(path, "verbs must contain at least one value")]
    errors = _alone_errors(verbs, "verbs", path)
    if not errors and ANY not in verbs and not set(verbs) <= set(VERBS):
        errors.append(field.not_supported(path, list(verbs), VERBS))
    return errors


def _resource_errors(rule: Json, path: Path) -> list[FieldError]:
    errors = _verb_errors(rule.get("verbs") or (), path.child("verbs"))
    for name, words, others in (
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ):
        values = rule.get(name) or ()
        if not values:
            errors.append(field.required(path.child(name), words))
        errors += _alone_errors(values, others, path.child(name))
    namespaces, where = rule.get("namespaces") or (), path.child("namespaces")
    if not namespaces and not rule.get("clusterScope"):
        return [*errors, field.required(where, NO_NAMESPACE)]
    alone = _alone_errors(namespaces, "namespaces", where)
    if alone:
        return errors + alone
    return errors + [
        field.invalid(where.index(index), name, f"each member of this list must be '*' or a DNS-1123 label; {message}")
        for index, name in enumerate(namespaces)
        if name != ANY
        for message in formats.dns1123_label(name)
    ]


def _url_rule_errors(rule: Json, path: Path) -> list[FieldError]:
    errors = _verb_errors(rule.get("verbs") or (), path.child("verbs"))
    urls, where = rule.get("nonResourceURLs") or (), path.child("nonResourceURLs")
    if not urls:
        return [*errors, field.required(where, "nonResourceURLs must contain at least one value")]
    alone = _alone_errors(urls, "non-resource URLs", where)
    if alone:
        return errors + alone
    problems = [(index, url, _url_problem(url)) for index, url in enumerate(urls) if url != ANY]
    return errors + [field.invalid(where.index(index), url, problem) for index, url, problem in problems if problem]


def _url_problem(url: str) -> str:
    """Why a path cannot be in a rule; "" for a good one."""
    if not url:
        return "must not be empty"
    if url == "/":
        return ""
    if not url.startswith("/"):
        return "must start with slash"
    if " " in url:
        return "must not contain white-space"
    if "//" in url:
        return "must not contain double slash"
    if ANY in url and not (url.count(ANY) == 1 and url.endswith("/*")):
        return "wildcard can only do suffix matching"
    return ""
