"""ObjectMeta: names, labels, annotations, owners, finalizers, and what an update may not change.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tiphys.apiserver.registry.strategy import NameRule
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path

METADATA: Final = Path("metadata")
# All annotations of an object together, keys and values, in bytes.
MAX_ANNOTATIONS: Final = 256 * 1024
# Room for the random suffix of generateName.
GENERATED_SUFFIX: Final = 5

# Finalizers without a domain that Kubernetes itself uses.
STANDARD_FINALIZERS: Final = frozenset({"kubernetes", "orphan", "foregroundDeletion"})

NO_FINALIZER: Final = "name is neither a standard finalizer name nor is it fully qualified"

NameFunction = Callable[[str], Sequence[str]]


def _any_name(value: str) -> list[str]:
    return []


NAME_FUNCTIONS: Final[Mapping[NameRule, NameFunction]] = {
    NameRule.DNS_SUBDOMAIN: formats.dns1123_subdomain,
    NameRule.DNS_LABEL: formats.dns1123_label,
    NameRule.DNS_1035_LABEL: formats.dns1035_label,
    NameRule.PATH_SEGMENT: formats.path_segment,
    NameRule.ANY: _any_name,
}


def validate_object_meta(
    metadata: Mapping[str, Any],
    namespaced: bool,
    name_rule: NameRule,
    path: Path = METADATA,
    *,
    strict_finalizers: bool = True,
) -> list[FieldError]:
    """Errors of the metadata of a new or changed object. `strict_finalizers`: they need a domain or to be known."""
    errors = name_errors(metadata, NAME_FUNCTIONS[name_rule], path)
    if not metadata.get("name"):
        errors.append(field.required(path.child("name"), "name or generateName is required"))
    errors += _namespace_errors(metadata.get("namespace", ""), namespaced, path)
    if metadata.get("generation", 0) < 0:
        errors.append(field.invalid(path.child("generation"), metadata["generation"], NOT_NEGATIVE))
    labels = metadata.get("labels")
    if labels and not _good_labels(labels):
        errors += validate_labels(labels, path.child("labels"))
    if annotations := metadata.get("annotations"):
        errors += validate_annotations(annotations, path.child("annotations"))
    if owners := metadata.get("ownerReferences"):
        errors += validate_owner_references(owners, path.child("ownerReferences"))
    if finalizers := metadata.get("finalizers"):
        errors += validate_finalizers(finalizers, path.child("finalizers"), strict=strict_finalizers)
    return errors


def name_errors(metadata: Mapping[str, Any], check: NameFunction, path: Path = METADATA) -> list[FieldError]:
    """Errors of generateName and name by the rule of a kind; a missing name is not judged."""
    errors: list[FieldError] = []
    if prefix := metadata.get("generateName"):
        errors.extend(
            field.invalid(path.child("generateName"), prefix, message) for message in check(_mask_trailing_dash(prefix))
        )
    if name := metadata.get("name"):
        errors += [field.invalid(path.child("name"), name, message) for message in check(name)]
    return errors


NOT_NEGATIVE: Final = "must be greater than or equal to 0"


def _mask_trailing_dash(prefix: str) -> str:
    """A prefix may end with a dash, as something follows it."""
    return prefix[:-2] + "a" if len(prefix) > 1 and prefix.endswith("-") else prefix


def _namespace_errors(namespace: str, namespaced: bool, path: Path) -> list[FieldError]:
    if not namespaced:
        return [field.forbidden(path.child("namespace"), "not allowed on this type")] if namespace else []
    if not namespace:
        return [field.required(path.child("namespace"), "")]
    return [field.invalid(path.child("namespace"), namespace, message) for message in formats.dns1123_label(namespace)]


def _good_labels(labels: Mapping[str, str]) -> bool:
    """Whether `validate_labels` finds nothing: the labels of most objects have been looked at before."""
    return not any(formats.qualified_name(key) or formats.label_value(value) for key, value in labels.items())


def validate_labels(labels: Mapping[str, str], path: Path) -> list[FieldError]:
    """Keys are qualified names, values label values."""
    errors: list[FieldError] = []
    for key in sorted(labels):
        errors += validate_label_name(key, path)
        value = labels[key]
        errors += [field.invalid(path, value, message) for message in formats.label_value(value)]
    return errors


def validate_label_name(key: str, path: Path) -> list[FieldError]:
    return [field.invalid(path, key, message) for message in formats.qualified_name(key)]


def validate_annotations(annotations: Mapping[str, str], path: Path) -> list[FieldError]:
    """Keys are qualified names (in any case); together at most 256 KiB."""
    errors: list[FieldError] = []
    size = 0
    for key, value in annotations.items():
        errors += [field.invalid(path, key, message) for message in formats.qualified_name(key.lower())]
        size += len(key.encode()) + len(value.encode())
    if size > MAX_ANNOTATIONS:
        errors.append(field.too_long(path, "", MAX_ANNOTATIONS))
    return errors


def validate_owner_references(owners: Sequence[Mapping[str, Any]], path: Path) -> list[FieldError]:
    """Each complete, none an Event, at most one the controller."""
    errors: list[FieldError] = []
    if len(owners) == 1 and _complete(owners[0]):
        return errors
    controller: str | None = None
    for owner in owners:
        errors += _owner_errors(owner, path)
        if owner.get("controller"):
            this = f"{owner.get('kind', '')}/{owner.get('name', '')}"
            if controller is None:
                controller = this
                continue
            detail = (
                "Only one reference can have Controller set to true. "
                f'Found "true" in references for {controller} and {this}'
            )
            errors.append(field.invalid(path, list(owners), detail))
    return errors


def _complete(owner: Mapping[str, Any]) -> bool:
    """Whether `_owner_errors` finds nothing."""
    version = owner.get("apiVersion", "").rpartition("/")[2]
    return bool(version and owner.get("kind") and owner["kind"] != "Event" and owner.get("name") and owner.get("uid"))


def _owner_errors(owner: Mapping[str, Any], path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    api_version, kind = owner.get("apiVersion", ""), owner.get("kind", "")
    group, _, version = api_version.rpartition("/")
    if not version:
        errors.append(field.invalid(path.child("apiVersion"), api_version, "version must not be empty"))
    if not kind:
        errors.append(field.invalid(path.child("kind"), kind, "must not be empty"))
    if not owner.get("name"):
        errors.append(field.invalid(path.child("name"), "", "must not be empty"))
    if not owner.get("uid"):
        errors.append(field.invalid(path.child("uid"), "", "must not be empty"))
    if kind == "Event" and group in ("", "events.k8s.io"):
        detail = f"{group}/{version}, Kind={kind} is disallowed from being an owner"
        errors.append(field.invalid(path, dict(owner), detail))
    return errors


def validate_finalizers(finalizers: Sequence[str], path: Path, *, strict: bool = True) -> list[FieldError]:
    """Names that are standard or fully qualified; orphan and foregroundDeletion exclude each other."""
    errors: list[FieldError] = []
    for finalizer in finalizers:
        errors += [field.invalid(path, finalizer, message) for message in formats.qualified_name(finalizer)]
    for index, finalizer in enumerate(finalizers):
        if strict and "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
            errors.append(field.invalid(path.index(index), finalizer, NO_FINALIZER))
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        errors.append(field.invalid(path, list(finalizers), detail))
    return errors


def validate_finalizer_name(finalizer: str, path: Path) -> list[FieldError]:
    errors = [field.invalid(path, finalizer, message) for message in formats.qualified_name(finalizer)]
    if not errors and "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
        errors.append(field.invalid(path, finalizer, NO_FINALIZER))
    return errors


def validate_object_meta_update(
    new: Mapping[str, Any], old: Mapping[str, Any], path: Path = METADATA
) -> list[FieldError]:
    """What an update may not change: identity, time of deletion; finalizers of an object being deleted only go."""
    errors: list[FieldError] = []
    if old.get("deletionTimestamp"):
        added = sorted(set(new.get("finalizers") or ()) - set(old.get("finalizers") or ()))
        if added:
            listed = " ".join(f'"{name}"' for name in added)
            detail = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            errors.append(field.forbidden(path.child("finalizers"), detail.replace('" "', '", "')))
    if not new.get("resourceVersion"):
        errors.append(field.invalid(path.child("resourceVersion"), "", "must be specified for an update"))
    changed = [name for name in _IDENTITY if new.get(name) != old.get(name)]
    return errors + [field.invalid(path.child(name), new.get(name), IMMUTABLE) for name in changed]


_IDENTITY: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


IMMUTABLE: Final = "field is immutable"


def validate_immutable(new: Any, old: Any, path: Path) -> list[FieldError]:
    """An error when a field changed that may not."""
    return [] if new == old else [field.invalid(path, new, IMMUTABLE)]


def validate_non_negative(value: int, path: Path) -> list[FieldError]:
    return [field.invalid(path, value, NOT_NEGATIVE)] if value < 0 else []
