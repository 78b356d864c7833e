"""Strategy: what is particular about one resource. The base class is a working default for every kind.

The generic registry (`registry/store.py`) owns the flow of a write and calls a strategy in this order:

    create   default → [mutating admission] → prepare_for_create → validate → [validating admission] → begin → commit
    update   default → [mutating admission] → prepare_for_update → validate_update → [validating] → begin → commit
    delete   check_graceful_deletion → (prepare_for_deletion → update) or removal → after_delete

Objects are plain dicts as decoded from JSON, in the storage version of the resource; a strategy changes only the object
it is told to change ("new"), never `old`. The registry itself does what is the same for every kind: names,
generateName, uid, creationTimestamp, finalizers, preconditions, ObjectMeta validation, managedFields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Final, Protocol

from tiphys.api.table import Resource
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.machinery.field import FieldError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import human_duration, parse_rfc3339

Object = dict[str, Any]
Cell = str | int | float | bool | None


class Reader(Protocol):
    """Read access to every other resource, from the watch caches (never blocks, always current); read only."""

    def get(self, group: str, resource: str, key: ObjectName) -> Object | None:
        """The object in storage version, or None."""

    def list(self, group: str, resource: str, namespace: str = "") -> Sequence[Object]:
        """All objects of the resource, of one namespace when given, in key order."""


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """What a strategy may know about the request it serves."""

    user: UserInfo
    now: datetime
    reader: Reader
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    dry_run: bool = False
    field_manager: str = ""
    # The new spec has a list that was given as [] where there was none: one and the same when it is stored.
    emptied: bool = False
    # Parts of the new object as they were in normal form, encoded: what is still so need not be made normal again.
    normal: dict[str, bytes] = field(default_factory=dict)
    # "field is deprecated" and the like; each becomes one Warning header.
    warnings: list[str] = field(default_factory=list)


# Called once with True when the write was committed, with False when it was not (also after a dry run).
Finish = Callable[[bool], None]


class GarbageCollection(Enum):
    """What a DELETE without propagationPolicy does with dependents."""

    BACKGROUND = "background"
    ORPHAN = "orphan"
    UNSUPPORTED = "unsupported"


OWN_METADATA: Final = (
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
)


class NameRule(Enum):
    """Which names a resource allows (Kubernetes: "Object Names and IDs")."""

    DNS_SUBDOMAIN = "dns_subdomain"  # RFC 1123 subdomain, 253 characters
    DNS_LABEL = "dns_label"  # RFC 1123 label, 63 characters
    DNS_1035_LABEL = "dns_1035_label"  # RFC 1035 label: Service
    PATH_SEGMENT = "path_segment"  # no "/", no "%", not "." or "..": RBAC
    ANY = "any"  # checked by the strategy's own validate


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the Table form. Priority 0 is always shown, 1 only by `-o wide`."""

    name: str
    type: str = "string"
    description: str = ""
    format: str = ""
    priority: int = 0


NAME_COLUMN: Final = Column(
    "Name",
    format="name",
    description=(
        "Name must be unique within a namespace. Is required when creating resources, although some resources may "
        "allow a client to request the generation of an appropriate name automatically. Name is primarily intended "
        "for creation idempotence and configuration definition. Cannot be updated. More info: "
        "https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
    ),
)
CREATED_AT_COLUMN: Final = Column(
    "Created At",
    type="date",
    description=(
        "CreationTimestamp is a timestamp representing the server time when this object was created. It is not "
        "guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It "
        "is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More "
        "info: "
        "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
    ),
)


def age(obj: Object, now: datetime) -> str:
    """The AGE cell of an object: "5m", "3d", or "<unknown>" when it has no creation time."""
    created = obj.get("metadata", {}).get("creationTimestamp")
    if not created:
        return "<unknown>"
    return human_duration(now - parse_rfc3339(created))


# Kinds whose own rules leave metadata of updates to what is checked for every kind: causes come once, elsewhere twice.
METADATA_ONCE: Final = frozenset(
    {
        ("", "events"),
        ("", "limitranges"),
        ("", "persistentvolumes"),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
        ("discovery.k8s.io", "endpointslices"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("policy", "poddisruptionbudgets"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "volumeattachments"),
    }
)

# Kinds whose metadata.generation counts changes (defaults.md, 12); custom resources do too.
GENERATIONS: Final = frozenset(
    {
        ("", "pods"),
        ("", "podtemplates"),
        ("", "replicationcontrollers"),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
        ("apps", "daemonsets"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("batch", "cronjobs"),
        ("batch", "jobs"),
        ("discovery.k8s.io", "endpointslices"),
        ("flowcontrol.apiserver.k8s.io", "flowschemas"),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
        ("networking.k8s.io", "ingressclasses"),
        ("networking.k8s.io", "ingresses"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy", "poddisruptionbudgets"),
        ("resource.k8s.io", "deviceclasses"),
        ("resource.k8s.io", "devicetaintrules"),
        ("resource.k8s.io", "resourceslices"),
        ("scheduling.k8s.io", "priorityclasses"),
    }
)
# Kinds whose DELETE answers with the deleted object instead of a Status.
RETURNED_WHEN_DELETED: Final = frozenset(
    {
        ("", "persistentvolumeclaims"),
        ("", "persistentvolumes"),
        ("", "pods"),
        ("", "podtemplates"),
        ("", "resourcequotas"),
        ("", "serviceaccounts"),
        ("", "services"),
        ("resource.k8s.io", "deviceclasses"),
        ("resource.k8s.io", "devicetaintrules"),
        ("resource.k8s.io", "resourceclaims"),
        ("resource.k8s.io", "resourceclaimtemplates"),
        ("resource.k8s.io", "resourceslices"),
        ("storage.k8s.io", "csidrivers"),
        ("storage.k8s.io", "csinodes"),
        ("storage.k8s.io", "storageclasses"),
        ("storage.k8s.io", "volumeattachments"),
        ("storage.k8s.io", "volumeattributesclasses"),
    }
)


class Strategy:
    """One resource's own rules. Subclass in `registry/<group>/<resource>.py`, list it in `registry/__init__.py`."""

    # --- facts about the resource -----------------------------------------------------------------
    name_rule: ClassVar[NameRule] = NameRule.DNS_SUBDOMAIN
    # Finalizers without a domain must be ones Kubernetes knows; a few kinds take any qualified name.
    strict_finalizers: ClassVar[bool] = True
    # Metadata of a new object is looked at after everything else, and only if nothing else is wrong.
    metadata_last: ClassVar[bool] = False
    # A PUT to a name that does not exist creates it.
    allow_create_on_update: ClassVar[bool] = False
    # A PUT without metadata.resourceVersion overwrites whatever is there.
    allow_unconditional_update: ClassVar[bool] = True
    # Whether metadata.generation counts changes of spec. None: as GENERATIONS has it.
    generation: ClassVar[bool | None] = None
    # Also an empty list in place of none counts, as upstream compares some specs before they are encoded.
    counts_emptied: ClassVar[bool] = False
    # The first update writes even what is the same: upstream creates without a field it fills in when it reads.
    first_update_writes: ClassVar[bool] = False
    garbage_collection: ClassVar[GarbageCollection] = GarbageCollection.BACKGROUND
    # Field paths a write through a subresource ("" the main one) does not own, for managedFields.
    reset_fields: ClassVar[Mapping[str, Sequence[tuple[str, ...]]]] = {}
    # Whether a write of the status leaves the object's own labels, annotations, finalizers and owners as they were.
    status_alone: ClassVar[bool] = False
    # The part of new objects that many have in common, being made from one template; `validate_rest` goes with it.
    template_part: ClassVar[str] = ""
    # Where the object has a pod spec, if it has one.
    pod_spec: ClassVar[tuple[str, ...]] = ()
    # `default` looks at nothing but the spec.
    defaults_spec_only: ClassVar[bool] = False
    columns: Sequence[Column] = (NAME_COLUMN, CREATED_AT_COLUMN)

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.has_status = "status" in resource.subresources
        key = (resource.group, resource.plural)
        self.checks_metadata_again = key not in METADATA_ONCE
        self.has_generation = key in GENERATIONS if self.generation is None else self.generation
        self.delete_returns_object = key in RETURNED_WHEN_DELETED

    # --- create -----------------------------------------------------------------------------------
    def default(self, obj: Object) -> None:
        """Set static defaults in place (defaults.md); runs before admission, on create and on update."""

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        """Wipe what a client may not set, and set what the server does. By default `status` is wiped."""
        if self.has_status:
            obj.pop("status", None)

    def validate(self, obj: Object) -> list[FieldError]:
        """Errors of a new object, in upstream's order; ObjectMeta is checked by the registry before."""
        return []

    def validate_rest(self, obj: Object) -> tuple[list[FieldError], list[str]]:
        """Errors and warnings of a new object whose `template_part` is known to have none of its own."""
        return self.validate(obj), self.warnings(obj, None)

    async def begin_create(self, ctx: RequestContext, obj: Object) -> Finish | None:
        """Last step before the commit: allocate addresses, ports … into `obj`. StatusError refuses."""
        return None

    def after_create(self, ctx: RequestContext, obj: Object) -> None:
        """Called after a committed create."""

    # --- update -----------------------------------------------------------------------------------
    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Carry over what a write of the main resource may not change. `status` is kept by default."""
        if self.has_status:
            if "status" in old:
                new["status"] = old["status"]
            else:
                new.pop("status", None)

    def spec_changed(self, new: Object, old: Object) -> bool:
        """Whether an update counts in metadata.generation: any change outside metadata and status."""
        return any(
            new.get(key) != old.get(key)
            for key in {*new, *old}
            if key not in ("metadata", "status", "kind", "apiVersion")
        )

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        """Errors of an update of the main resource; the default judges the new object alone."""
        return self.validate(new)

    async def begin_update(self, ctx: RequestContext, new: Object, old: Object) -> Finish | None:
        """As begin_create, for an update of the main resource."""
        return None

    def after_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Called after a committed update, of any subresource."""

    # --- status and other subresources that write the object itself -------------------------------
    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        """Keep everything but status; labels, annotations and finalizers may change where the kind allows it."""
        if self.status_alone:
            known, metadata = old["metadata"], new["metadata"]
            for name in OWN_METADATA:
                metadata.pop(name, None)
                if name in known:
                    metadata[name] = known[name]
        for key in {*new, *old} - {"status", "metadata", "kind", "apiVersion"}:
            if key in old:
                new[key] = old[key]
            else:
                new.pop(key, None)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        """Errors of a write of the status subresource."""
        return []

    def prepare_for_subresource_update(self, subresource: str, ctx: RequestContext, new: Object, old: Object) -> None:
        """Like prepare_for_update, for finalize, approval, ephemeralcontainers, resize …"""
        self.prepare_for_status_update(ctx, new, old)

    def validate_subresource_update(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        """Errors of such a write."""
        return self.validate_status_update(new, old)

    # --- delete -----------------------------------------------------------------------------------
    def check_graceful_deletion(self, ctx: RequestContext, obj: Object, grace_period_seconds: int | None) -> int | None:
        """The grace period in seconds of a graceful deletion (0: at once, but in that way); None: not graceful."""
        return None

    def prepare_for_deletion(self, ctx: RequestContext, obj: Object) -> None:
        """Change the object that is being marked for deletion (namespaces: phase Terminating)."""

    def holds_deletion(self, obj: Object) -> bool:
        """True while something other than metadata.finalizers keeps a deleted object (namespaces: spec.finalizers)."""
        return False

    def after_delete(self, ctx: RequestContext, obj: Object) -> None:
        """Called when the object is gone: release addresses, ports …"""

    # --- reading ----------------------------------------------------------------------------------
    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        """Warnings for a valid object ("… is deprecated"); `old` is None on create."""
        return []

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        """Fields a fieldSelector may name, with this object's values."""
        metadata = obj.get("metadata", {})
        fields = {"metadata.name": metadata.get("name", "")}
        if self.resource.namespaced:
            fields["metadata.namespace"] = metadata.get("namespace", "")
        return fields

    def field_labels(self) -> dict[str, str]:
        """The fields requests of this version may name; the values are kept with the object, for all its versions."""
        return self.selectable_fields({"metadata": {}})

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        """The cells of one Table row, one per column."""
        metadata = obj.get("metadata", {})
        return [metadata.get("name", ""), metadata.get("creationTimestamp")]
