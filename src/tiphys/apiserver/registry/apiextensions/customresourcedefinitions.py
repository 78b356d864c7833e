"""CustomResourceDefinitions: names, versions and scope. Schemas are judged by the custom-resource machinery.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from tiphys.apiserver.crd.definition import declared_errors, nodes
from tiphys.apiserver.crd.formats import is_known
from tiphys.apiserver.crd.terminating import mark_terminating
from tiphys.apiserver.registry.apiextensions.conversion import conversion_errors
from tiphys.apiserver.registry.kinds import StatusStrategy, name_of, spec_of, status_of
from tiphys.apiserver.registry.strategy import NameRule, Object, RequestContext
from tiphys.apiserver.registry.tables import condition
from tiphys.apiserver.registry.validation.meta import name_errors, validate_immutable
from tiphys.machinery import field, formats
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.time import format_time

Json = Mapping[str, Any]

SPEC: Final = Path("spec")
APPROVED: Final = "api-approved.kubernetes.io"
APPROVAL_DETAIL: Final = (
    f'protected groups must have approval annotation "{APPROVED}", see '
    "https://github.com/kubernetes/enhancements/pull/1111"
)
PRESERVE_DETAIL: Final = (
    "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
)
MAX_WARNING: Final = 256
PROTECTED_SUFFIXES: Final = (".k8s.io", ".kubernetes.io")


class CustomResourceDefinitionStrategy(StatusStrategy):
    """Rules of definitions."""

    name_rule: ClassVar[NameRule] = NameRule.ANY
    strict_finalizers: ClassVar[bool] = False
    allow_unconditional_update: ClassVar[bool] = False

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        names = spec.setdefault("names", {})
        if kind := names.get("kind"):
            if not names.get("singular"):
                names["singular"] = kind.lower()
            if not names.get("listKind"):
                names["listKind"] = f"{kind}List"
        if spec.get("conversion") is None:
            spec["conversion"] = {"strategy": "None"}
        webhook = (spec["conversion"].get("webhook") or {}).get("clientConfig") or {}
        service = webhook.get("service")
        if service is not None and service.get("port") is None:
            service["port"] = 443

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        stored = [one.get("name") for one in spec_of(obj).get("versions") or () if one.get("storage")]
        obj["status"] = {
            "conditions": None,
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": stored[:1],
        }

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """A version that was ever stored stays listed until its objects are rewritten."""
        super().prepare_for_update(ctx, new, old)
        status = dict(new.get("status") or {})
        stored = list(status.get("storedVersions") or ())
        for one in spec_of(new).get("versions") or ():
            if one.get("storage") and one.get("name") not in stored:
                stored.append(one.get("name"))
        status["storedVersions"] = stored
        new["status"] = status

    def validate(self, obj: Object) -> list[FieldError]:
        spec, name = spec_of(obj), name_of(obj)
        errors = name_errors(obj["metadata"], formats.dns1123_subdomain)
        names = spec.get("names") or {}
        if name and name != f"{names.get('plural') or ''}.{spec.get('group') or ''}":
            detail = 'must be spec.names.plural+"."+spec.group'
            errors.append(field.invalid(Path("metadata").child("name"), name, detail))
        errors += _group_errors(spec.get("group") or "", obj)
        scope = spec.get("scope") or ""
        if not scope:
            errors.append(field.required(SPEC.child("scope"), ""))
        elif scope not in ("Cluster", "Namespaced"):
            errors.append(field.not_supported(SPEC.child("scope"), scope, ["Cluster", "Namespaced"]))
        errors += _version_errors(spec)
        if spec.get("preserveUnknownFields"):
            if _has_defaults(spec):
                detail = "must be false in order to use defaults in the schema"
                errors.append(field.invalid(SPEC.child("preserveUnknownFields"), True, detail))
            errors.append(field.invalid(SPEC.child("preserveUnknownFields"), True, PRESERVE_DETAIL))
        errors += _names_errors(names, SPEC.child("names"))
        return errors + conversion_errors(spec.get("conversion") or {}, SPEC.child("conversion"))

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        schemas = [(one.get("schema") or {}).get("openAPIV3Schema") for one in spec_of(obj).get("versions") or ()]
        named = (one.get("format") for schema in schemas if isinstance(schema, Mapping) for one in nodes(schema))
        unknown = dict.fromkeys(name for name in named if name and not is_known(name))
        return [f"unrecognized format {field.quote(name)}" for name in unknown]

    def holds_deletion(self, obj: Object) -> bool:
        """A deletion only begins: the instances go first, and a finalizer waits for them."""
        return not obj["metadata"].get("deletionTimestamp")

    def prepare_for_deletion(self, ctx: RequestContext, obj: Object) -> None:
        obj["metadata"].pop("deletionGracePeriodSeconds", None)
        if condition(obj, "Terminating") is not None:
            return  # it has begun before
        if obj["metadata"].get("generation"):
            obj["metadata"]["generation"] -= 1  # here a deletion does not count as a change
        mark_terminating(obj, format_time(ctx.now))

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        errors = self.validate(new)
        spec, known = spec_of(new), spec_of(old)
        established = condition(old, "Established")
        if established is not None and established.get("status") == "True":
            errors += validate_immutable(spec.get("scope"), known.get("scope"), SPEC.child("scope"))
            kind, before = (spec.get("names") or {}).get("kind"), (known.get("names") or {}).get("kind")
            errors += validate_immutable(kind, before, SPEC.child("names", "kind"))
        errors += validate_immutable(spec.get("group"), known.get("group"), SPEC.child("group"))
        plural, before = (spec.get("names") or {}).get("plural"), (known.get("names") or {}).get("plural")
        return errors + validate_immutable(plural, before, SPEC.child("names", "plural"))

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        stored = status_of(new).get("storedVersions") or ()
        names = {one.get("name") for one in spec_of(new).get("versions") or ()}
        where = Path("status").child("storedVersions")
        return [
            field.invalid(where.index(index), one, "must appear in spec.versions")
            for index, one in enumerate(stored)
            if one not in names
        ]


def _has_defaults(spec: Json) -> bool:
    schemas = [(one.get("schema") or {}).get("openAPIV3Schema") for one in spec.get("versions") or ()]
    return any(
        one.get("default") is not None for schema in schemas if isinstance(schema, Mapping) for one in nodes(schema)
    )


def _group_errors(group: str, obj: Object) -> list[FieldError]:
    where = SPEC.child("group")
    if not group:
        return [field.required(where, "")]
    errors = [field.invalid(where, group, message) for message in formats.dns1123_subdomain(group)]
    if not errors and "." not in group:
        errors.append(field.invalid(where, group, "should be a domain with at least one dot"))
    if group in ("k8s.io", "kubernetes.io") or group.endswith(PROTECTED_SUFFIXES):
        approval = (obj["metadata"].get("annotations") or {}).get(APPROVED, "")
        at = Path("metadata").child("annotations").key(APPROVED)
        if not approval:
            errors.append(field.required(at, APPROVAL_DETAIL))
        elif not approval.startswith(("unapproved", "https://", "http://")):
            detail = (
                "protected groups must have approval annotation with either a URL or a reason starting with "
                '"unapproved"'
            )
            errors.append(field.invalid(at, approval, detail))
    return errors


_VERSION_FIELDS: Final = (
    ("Name", "name", ""),
    ("Served", "served", False),
    ("Storage", "storage", False),
    ("Deprecated", "deprecated", False),
    ("DeprecationWarning", "deprecationWarning", None),
    ("Schema", "schema", None),
    ("Subresources", "subresources", None),
    ("AdditionalPrinterColumns", "additionalPrinterColumns", None),
    ("SelectableFields", "selectableFields", None),
)
# What stands beside the versions, in upstream's own form, when it is the same in all of them.
_SHARED: Final = ("schema", "subresources", "additionalPrinterColumns", "selectableFields")


def _shown_versions(versions: Sequence[Json]) -> list[Json]:
    """The versions as errors show them."""
    shared = {name for name in _SHARED if all(one.get(name) == versions[0].get(name) for one in versions)}
    return [
        {shown: None if name in shared else one.get(name, default) for shown, name, default in _VERSION_FIELDS}
        for one in versions
    ]


def _version_errors(spec: Json) -> list[FieldError]:
    versions: Sequence[Json] = spec.get("versions") or ()
    where = SPEC.child("versions")
    errors: list[FieldError] = []
    stored = 0
    names: set[str] = set()
    for index, version in enumerate(versions):
        name = version.get("name") or ""
        at = where.index(index)
        stored += bool(version.get("storage"))
        errors += [field.invalid(at.child("name"), name, message) for message in formats.dns1035_label(name)]
        if name in names:
            errors.append(field.invalid(where, _shown_versions(versions), "must contain unique version names"))
        names.add(name)
        errors += _deprecation_errors(version, at.child("deprecationWarning"))
        if (version.get("schema") or {}).get("openAPIV3Schema") is None:
            errors.append(field.required(at.child("schema", "openAPIV3Schema"), ""))
    errors += declared_errors(versions, SPEC)
    for version in versions[:1]:  # upstream's own form names the first version once more
        name = version.get("name") or ""
        errors += [field.invalid(SPEC.child("version"), name, message) for message in formats.dns1035_label(name)]
    if stored != 1:
        detail = "must have exactly one version marked as storage version"
        errors.append(field.invalid(where, _shown_versions(versions) if versions else spec.get("versions"), detail))
    if not stored:
        errors.append(
            field.invalid(Path("status").child("storedVersions"), None, "must have at least one stored version")
        )
    return errors


def _deprecation_errors(version: Json, path: Path) -> list[FieldError]:
    text = version.get("deprecationWarning")
    if text is None:
        return []
    if not version.get("deprecated"):
        return [field.invalid(path, text, "can only be set for deprecated versions")]
    if not text:
        return [field.invalid(path, text, "must not be an empty string")]
    if len(text.encode()) > MAX_WARNING:
        return [field.invalid(path, text, f"must be <= {MAX_WARNING} characters long")]
    hidden = next((index for index, char in enumerate(text) if not char.isprintable()), None)
    if hidden is None:
        return []
    at = len(text[:hidden].encode())
    detail = f"must only contain printable UTF-8 characters; non-printable character found at index {at}"
    return [field.invalid(path, text, detail)]


def _names_errors(names: Json, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    for name in ("plural", "singular", "kind", "listKind"):
        value = names.get(name) or ""
        if not value:
            errors.append(field.required(path.child(name), ""))
            continue
        lowered = value.lower() if name in ("kind", "listKind") else value
        for message in formats.dns1035_label(lowered):
            shown = (
                f"may have mixed case, but should otherwise match: {message}"
                if lowered != value or name in ("kind", "listKind")
                else message
            )
            errors.append(field.invalid(path.child(name), value, shown))
    for name in ("shortNames", "categories"):
        for index, value in enumerate(names.get(name) or ()):
            at = path.child(name).index(index)
            errors += [field.invalid(at, value, message) for message in formats.dns1035_label(value)]
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        errors.append(field.invalid(path.child("listKind"), names["listKind"], "kind and listKind may not be the same"))
    return errors
