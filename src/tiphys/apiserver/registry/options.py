"""DeleteOptions and preconditions, checked as the API checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tiphys.machinery import field
from tiphys.machinery.errors import conflict, invalid
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import GroupKind, GroupResource

FOREGROUND: Final = "Foreground"
BACKGROUND: Final = "Background"
ORPHAN: Final = "Orphan"
FINALIZER_ORPHAN: Final = "orphan"
FINALIZER_FOREGROUND: Final = "foregroundDeletion"


@dataclass(slots=True, kw_only=True)
class Preconditions:
    """What must be true of the object for the write to happen; None means anything."""

    uid: str | None = None
    resource_version: str | None = None

    def check(self, resource: GroupResource, kind: GroupKind, metadata: dict[str, Any], revision: int) -> None:
        """Raise StatusError (409) when the object is another one than was meant; `revision` 0 is not compared."""
        uid = metadata.get("uid", "")
        name = metadata.get("name", "")
        if self.uid is not None and self.uid != uid:
            raise conflict(
                GroupResource(kind.group, kind.kind),
                name,
                f"the UID in the precondition ({self.uid}) does not match the UID in record ({uid}). "
                "The object might have been deleted and then recreated",
            )
        if revision and self.resource_version is not None and self.resource_version != str(revision):
            raise conflict(
                GroupResource(kind.group, kind.kind),
                name,
                f"the ResourceVersion in the precondition ({self.resource_version}) does not match the ResourceVersion "
                f"in record ({revision}). The object might have been modified",
            )

    def check_storage(self, resource: GroupResource, metadata: dict[str, Any], revision: int) -> None:
        """The same for resources that check in the storage layer, with its words (namespaces)."""
        uid = metadata.get("uid", "")
        name = metadata.get("name", "")
        if self.uid is not None and self.uid != uid:
            message = f"Precondition failed: UID in precondition: {self.uid}, UID in object meta: {uid}"
            raise conflict(resource, name, message)
        if self.resource_version is not None and self.resource_version != str(revision):
            message = (
                f"Precondition failed: ResourceVersion in precondition: {self.resource_version}, "
                f"ResourceVersion in object meta: {revision}"
            )
            raise conflict(resource, name, message)


@dataclass(slots=True, kw_only=True)
class DeleteOptions:
    """metav1.DeleteOptions as far as the registry needs it."""

    grace_period_seconds: int | None = None
    propagation_policy: str | None = None
    orphan_dependents: bool | None = None
    preconditions: Preconditions | None = None
    dry_run: bool = False
    raw: dict[str, Any]

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> DeleteOptions:
        """From a decoded DeleteOptions. StatusError (422) when values contradict each other."""
        errors = _errors(raw)
        if errors:
            raise invalid(GroupKind("meta.k8s.io", "DeleteOptions"), "", errors)
        given = raw.get("preconditions")
        preconditions = None
        if given:
            preconditions = Preconditions(uid=given.get("uid"), resource_version=given.get("resourceVersion"))
        grace = raw.get("gracePeriodSeconds")
        # A negative period means the shortest one, as upstream reads it.
        return cls(
            grace_period_seconds=1 if grace is not None and grace < 0 else grace,
            propagation_policy=raw.get("propagationPolicy"),
            orphan_dependents=raw.get("orphanDependents"),
            preconditions=preconditions,
            dry_run=bool(raw.get("dryRun")),
            raw=raw,
        )


def _errors(raw: dict[str, Any]) -> list[FieldError]:
    errors: list[FieldError] = []
    policy = raw.get("propagationPolicy")
    path = Path("propagationPolicy")
    if raw.get("orphanDependents") is not None and policy is not None:
        errors.append(field.invalid(path, policy, "orphanDependents and deletionPropagation cannot be both set"))
    if policy is not None and policy not in (FOREGROUND, BACKGROUND, ORPHAN):
        errors.append(field.not_supported(path, policy, [FOREGROUND, BACKGROUND, ORPHAN, "nil"]))
    errors += dry_run_errors(raw.get("dryRun"))
    return errors


def dry_run_errors(value: Any) -> list[FieldError]:
    """`dryRun` may only hold "All"."""
    if value and any(one != "All" for one in value):
        return [field.not_supported(Path("dryRun"), value, ["All"])]
    return []
