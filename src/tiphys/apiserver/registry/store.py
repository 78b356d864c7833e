"""ResourceStore: the generic registry. How any object of any resource is created, updated and deleted.

    create   metadata filled in ─ strategy ─ validate ─ [admission] ─ begin ─ store.create ─▶ cache ─▶ answer
    update   ┌▶ current version from the cache ─ `make` the new one ─ strategy ─ validate ─ [admission] ─ begin
             │                                                                  nothing changed? answer the current one
             └── somebody was faster: again ◀── store.update(expect=revision) ─▶ cache ─▶ answer
    delete   graceful or held by finalizers: an update that marks the object; else store.delete

Each write encodes the object once; the answer and every later read are those bytes. The cache has the new version when
the store's await returns, so nothing is read back.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.housekeeping import SharedLeases
from tiphys.apiserver.registry.finalizers import finalizers_for_deletion
from tiphys.apiserver.registry.names import generate_name, new_uid
from tiphys.apiserver.registry.options import DeleteOptions, Preconditions
from tiphys.apiserver.registry.strategy import Finish, Object, RequestContext, Strategy
from tiphys.apiserver.registry.templates import Known, Templates
from tiphys.apiserver.registry.validation.meta import validate_object_meta, validate_object_meta_update
from tiphys.apiserver.watchcache import Entry, Kind, WatchCache, encode_stored
from tiphys.machinery import field
from tiphys.machinery.errors import (
    StatusError,
    already_exists,
    bad_request,
    conflict,
    generate_name_conflict,
    invalid,
    modified,
    not_found,
    request_entity_too_large,
    status_of,
    timeout,
)
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import GroupKind, GroupResource, join_api_version
from tiphys.machinery.normalize import normalize
from tiphys.machinery.schema import TypeSchema
from tiphys.machinery.time import format_time, parse_rfc3339
from tiphys.store import CompareFailed, KeyExists, LeaseNotFound, NoSpaceError

NAME_ATTEMPTS: Final = 8
UPDATE_ATTEMPTS: Final = 100
METADATA: Final = Path("metadata")
MAX_OBJECT_BYTES: Final = 1536 * 1024  # what etcd takes in one request; larger objects are refused by every store alike

# Where upstream stores what is named otherwise: only error messages show it.
_UPSTREAM_KEYS: Final = {
    GroupResource("", "nodes"): "minions",
    GroupResource("", "services"): "services/specs",
    GroupResource("", "endpoints"): "services/endpoints",
    GroupResource("networking.k8s.io", "ingresses"): "ingress",
    GroupResource("apiextensions.k8s.io", "customresourcedefinitions"): "apiextensions.k8s.io/"
    "customresourcedefinitions",
    GroupResource("apiregistration.k8s.io", "apiservices"): "apiregistration.k8s.io/apiservices",
}
# Those with a deletion of their own upstream: preconditions fail in the words of the storage.
_CHECKED_BY_STORAGE: Final = frozenset(
    {GroupResource("", "namespaces"), GroupResource("apiextensions.k8s.io", "customresourcedefinitions")}
)

Make = Callable[[Object | None, int], Awaitable[Object]]


class Admission(Protocol):
    """The validating half of admission, bound to one request."""

    async def validate(self, new: Object | None, old: Object | None) -> None:
        """Raise StatusError to refuse."""


class NoAdmission:
    """Nothing to ask: for the server's own writes."""

    async def validate(self, new: Object | None, old: Object | None) -> None:
        """Everything passes."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write ended in. `entry` is the version to answer with; `created`: it was not there before.

    `deleted`: the object is gone; `marked`: this write marked it, it stays until finalizers or grace period are over.
    """

    entry: Entry
    created: bool = False
    deleted: bool = False
    marked: bool = False

    @property
    def answer_with_object(self) -> bool:
        """A deletion that has only begun answers with the object."""
        return self.marked


class ResourceStore:
    """All objects of one resource, in its storage version."""

    def __init__(
        self,
        strategy: Strategy,
        kind: Kind,
        cache: WatchCache,
        now: Callable[[], datetime],
        schema: TypeSchema | None = None,
        leases: SharedLeases | None = None,
    ) -> None:
        """`strategy.resource` and `schema` are of the storage version; `now` is the clock.

        With `leases`, objects expire: each write puts its object under the current lease.
        """
        resource = strategy.resource
        self.strategy = strategy
        self.kind = kind
        self.resource = resource
        self.schema = schema
        self.group_resource = GroupResource(resource.group, resource.plural)
        self.group_kind = GroupKind(resource.group, resource.kind)
        self.api_version = join_api_version(resource.group, resource.version)
        self.prefix = b'{"kind":"%b","apiVersion":"%b",' % (resource.kind.encode(), self.api_version.encode())
        self._cache = cache
        self._store = cache.store
        self._now = now
        self._leases = leases
        self._templates = Templates()

    def named_as(self, group_resource: GroupResource, strategy: Strategy) -> ResourceStore:
        """The same store under another group's name: errors name the resource as the client does (events).

        `strategy` has the rules of that group; it sees objects in the storage version.
        """
        other = copy.copy(self)
        other.group_resource = group_resource
        other.strategy = strategy
        return other

    # --- reading ----------------------------------------------------------------------------------
    def get(self, namespace: str, name: str) -> Entry:
        """The current version. StatusError (404) when there is none."""
        entry = self.kind.cache.get(namespace, name)
        if entry is None:
            raise not_found(self.group_resource, name)
        return entry

    async def find(self, namespace: str, name: str) -> Entry | None:
        """As `get`, for stores whose objects have to be fetched from somewhere first; None when there is none."""
        return self.kind.cache.get(namespace, name)

    async def current(self, namespace: str, name: str) -> Entry:
        """As `find`. StatusError (404) when there is none."""
        entry = await self.find(namespace, name)
        if entry is None:
            raise not_found(self.group_resource, name)
        return entry

    async def fresh(self) -> None:
        """Return when `kind` shows everything the cache of the server has. StatusError when it cannot."""

    @property
    def revision(self) -> int:
        """The revision of the store whose state `kind` shows."""
        return self._cache.revision

    async def shown(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Entries straight from the store, as they look here."""
        return entries

    async def stored(self, obj: Object) -> Object:
        """An object of this store, complete and valid, as it is to be kept."""
        return obj

    def decode(self, entry: Entry) -> Object:
        """A fresh copy of the object, with kind and apiVersion, free to be changed."""
        return self.parse(entry.tail)

    def parse(self, tail: bytes) -> Object:
        """As `decode`, from the tail of an entry."""
        obj: Object = orjson.loads(self.prefix + tail)
        return obj

    def in_version(self, obj: Object, api_version: str) -> tuple[Object, TypeSchema] | None:
        """A copy of an object of this store in another version, with its schema; None where that is not served.

        For resources that have a store for each version; versions of others are converted by `registry.conversion`.
        """
        return None

    def store_key(self, namespace: str, name: str) -> str:
        """Where the object lives in the store."""
        own = f"{namespace}/{name}" if self.resource.namespaced else name
        return self.kind.cache.prefix + own

    def _lease_lost(self, error: LeaseNotFound) -> StatusError:
        assert self._leases is not None
        self._leases.lost(error)
        return timeout("the lease of the object has ended; try again", 1)

    # --- create -----------------------------------------------------------------------------------
    async def create(self, ctx: RequestContext, obj: Object, admission: Admission) -> Written:
        """Store a new object, decoded, defaulted and admitted; `obj` becomes what is stored."""
        metadata = obj.setdefault("metadata", {})
        generated = not metadata.get("name") and bool(metadata.get("generateName"))
        self._fill_system_fields(ctx, obj)
        for attempt in range(NAME_ATTEMPTS if generated else 1):
            candidate = obj if not generated else orjson.loads(orjson.dumps(obj))
            if generated:
                candidate["metadata"]["name"] = generate_name(metadata["generateName"])
            try:
                return await self._create(ctx, candidate, admission)
            except KeyExists:
                if not generated:
                    raise already_exists(self.group_resource, metadata["name"]) from None
                if attempt == NAME_ATTEMPTS - 1:
                    raise generate_name_conflict(self.group_resource, metadata["generateName"]) from None
        raise AssertionError("unreachable")

    def _fill_system_fields(self, ctx: RequestContext, obj: Object) -> None:
        metadata = obj["metadata"]
        if self.resource.namespaced:
            metadata["namespace"] = ctx.namespace
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(name, None)
        metadata["creationTimestamp"] = format_time(ctx.now)
        metadata["uid"] = new_uid()
        if self.strategy.has_generation:
            metadata["generation"] = 1
        else:
            metadata.pop("generation", None)

    async def _create(self, ctx: RequestContext, obj: Object, admission: Admission) -> Written:
        strategy = self.strategy
        metadata = obj["metadata"]
        strategy.prepare_for_create(ctx, obj)
        template = self._templates.find(obj.get(strategy.template_part)) if strategy.template_part else None
        self._validate_new(ctx, obj, template)
        await admission.validate(obj, None)
        if metadata.get("resourceVersion"):
            raise StatusError(status_of(500, "", "resourceVersion should not be set on objects to be created"))
        finish = await strategy.begin_create(ctx, obj)
        committed = False
        try:
            name = metadata["name"]
            key = self.store_key(ctx.namespace, name)
            if ctx.dry_run:
                current = await self.find(ctx.namespace, name)
                if current is not None:
                    raise already_exists(self.group_resource, name)
                return Written(self._unsaved(ctx.namespace, name, obj), created=True)
            value = self._encode(key, await self.stored(obj), template=template)
            try:
                lease = await self._leases.current() if self._leases else 0
                revision = await self._store.create(key, value, lease=lease)
            except LeaseNotFound as error:
                raise self._lease_lost(error) from None
            except NoSpaceError as error:
                raise _no_space(error) from None
            finally:
                self._cache.forget_description(key)
            committed = True
            strategy.after_create(ctx, obj)
            return Written(await self._saved(ctx.namespace, name, revision), created=True)
        finally:
            if finish is not None:
                finish(committed)

    def _validate_new(self, ctx: RequestContext, obj: Object, template: tuple[Known, bytes] | None) -> None:
        """Raise what is wrong with a new object, and warn. Of a template's second object only the rest is judged."""
        strategy = self.strategy
        errors = self._metadata_errors(obj["metadata"])
        if template is not None and template[0].valid:
            found, warnings = strategy.validate_rest(obj)
            errors += found
        else:
            errors += strategy.validate(obj)
            warnings = [] if errors else strategy.warnings(obj, None)
            if template is not None and not errors and not warnings:
                template[0].valid = True
        if errors:
            raise invalid(self.group_kind, obj["metadata"].get("name", ""), errors)
        ctx.warnings += warnings

    def _metadata_errors(self, metadata: Object) -> list[FieldError]:
        strategy = self.strategy
        return validate_object_meta(
            metadata, self.resource.namespaced, strategy.name_rule, strict_finalizers=strategy.strict_finalizers
        )

    # --- update -----------------------------------------------------------------------------------
    async def update(
        self,
        ctx: RequestContext,
        make: Make,
        admission: Admission,
        *,
        preconditions: Preconditions | None = None,
        patching: bool = False,
        may_create: bool = False,
        create_admission: Admission | None = None,
    ) -> Written:
        """Replace an object by what `make(current copy, revision)` returns; called again when somebody was faster.

        `make` gets None when the object is not there and `may_create`. `patching`: the new object was made from the
        current one, so it needs no resourceVersion. The subresource in `ctx` decides which rules of the strategy apply.
        """
        for _ in range(UPDATE_ATTEMPTS):
            entry = await self.find(ctx.namespace, ctx.name)
            if entry is None:
                if not may_create:
                    raise not_found(self.group_resource, ctx.name)
                created = await self._create_by_update(ctx, make, create_admission or admission)
                if created is not None:
                    return created
                continue
            old = self.decode(entry)
            if preconditions is not None:
                preconditions.check_storage(self.group_resource, old["metadata"], entry.revision)
            new = await make(old, entry.revision)
            old = self.decode(entry)  # `make` may have changed its copy
            given = self._check_version(ctx, new, old, entry, patching)
            try:
                return await self._update(ctx, entry, new, old, admission)
            except CompareFailed as error:
                if given:
                    raise modified(self.group_resource, ctx.name) from None
                if error.current is not None:
                    await self._cache.wait_revision(error.current.mod_revision, 5.0)
        raise timeout("there was too much contention on the object; try again", 1)

    async def _create_by_update(self, ctx: RequestContext, make: Make, admission: Admission) -> Written | None:
        new = await make(None, 0)
        metadata = new.setdefault("metadata", {})
        if metadata.get("uid"):
            raise self.uid_conflict(ctx.namespace, ctx.name, metadata["uid"], "")
        metadata.setdefault("name", ctx.name)
        if metadata.get("resourceVersion"):
            raise not_found(self.group_resource, ctx.name)
        self._fill_system_fields(ctx, new)
        try:
            return await self._create(ctx, new, admission)
        except KeyExists:
            return None  # somebody else created it: this is an update then

    def uid_conflict(self, namespace: str, name: str, wanted: str, found: str) -> StatusError:
        """409: the object is another one than the request means, in the words of upstream's storage layer."""
        upstream = _UPSTREAM_KEYS.get(self.group_resource, self.resource.plural)
        if self.schema is not None and self.schema.custom:
            upstream = f"{self.resource.group}/{self.resource.plural}"
        place = f"{namespace}/{name}" if self.resource.namespaced else name
        return conflict(
            self.group_resource,
            name,
            f"StorageError: invalid object, Code: 4, Key: /registry/{upstream}/{place}, ResourceVersion: 0, "
            f"AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
        )

    def _check_version(self, ctx: RequestContext, new: Object, old: Object, entry: Entry, patching: bool) -> bool:
        """Optimistic concurrency; True when the client named the version it knows."""
        metadata = new["metadata"]
        version = metadata.get("resourceVersion") or ""
        uid = metadata.get("uid")
        if uid and not patching and uid != old["metadata"]["uid"]:
            raise self.uid_conflict(ctx.namespace, ctx.name, uid, old["metadata"]["uid"])
        if not version or version == "0":
            if patching or self.strategy.allow_unconditional_update:
                return False
            error = field.invalid(METADATA.child("resourceVersion"), 0, "must be specified for an update")
            raise invalid(GroupKind(*self.group_resource), ctx.name, [error])
        if version != str(entry.revision):
            if not version.isdecimal():
                raise bad_request(f'invalid resourceVersion "{version}"')
            raise modified(self.group_resource, ctx.name)
        return True

    async def _update(
        self, ctx: RequestContext, entry: Entry, new: Object, old: Object, admission: Admission
    ) -> Written:
        strategy = self.strategy
        metadata, known = new["metadata"], old["metadata"]
        self._keep_system_fields(ctx, metadata, known)
        subresource = ctx.subresource
        if not subresource or subresource == "scale":
            strategy.prepare_for_update(ctx, new, old)
        elif subresource == "status":
            strategy.prepare_for_status_update(ctx, new, old)
        else:
            strategy.prepare_for_subresource_update(subresource, ctx, new, old)
        if strategy.has_generation and subresource != "status" and strategy.spec_changed(new, old):
            metadata["generation"] = known.get("generation", 0) + 1
        if metadata.get("resourceVersion") in (None, "", "0"):
            metadata["resourceVersion"] = str(entry.revision)
        errors = self._update_errors(subresource, new, old)
        if errors:
            raise invalid(self.group_kind, ctx.name, errors)
        ctx.warnings += strategy.warnings(new, old) if not subresource else ()
        await admission.validate(new, old)
        if self._gone_after(new):
            return await self._remove_instead(ctx, entry, new, old)
        if same_object(new, old):
            return Written(entry)
        finish = await strategy.begin_update(ctx, new, old) if subresource in ("", "scale") else None
        return await self._replace(ctx, entry, new, old, finish)

    def _keep_system_fields(self, ctx: RequestContext, metadata: Object, known: Object) -> None:
        if self.resource.namespaced:
            metadata["namespace"] = ctx.namespace
        if not metadata.get("name"):
            metadata["name"] = known["name"]
        if "generateName" in known:
            metadata.setdefault("generateName", known["generateName"])
        if not metadata.get("uid"):
            metadata["uid"] = known["uid"]  # another one is an error that validation words
        for name in ("creationTimestamp", "generation", "selfLink", "deletionTimestamp"):
            if name in known:
                metadata[name] = known[name]
            else:
                metadata.pop(name, None)
        # A client may shorten nothing here, and may not take the grace period away.
        if "deletionGracePeriodSeconds" in known:
            metadata.setdefault("deletionGracePeriodSeconds", known["deletionGracePeriodSeconds"])

    def _update_errors(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        strategy = self.strategy
        errors = self._metadata_errors(new["metadata"])
        changed = validate_object_meta_update(new["metadata"], old["metadata"])
        errors += changed
        if not subresource or subresource == "scale":
            # Upstream checks these once for every kind and once more in each kind's own validation: causes come twice.
            return errors + changed + strategy.validate_update(new, old)
        if subresource == "status":
            return errors + strategy.validate_status_update(new, old)
        return errors + strategy.validate_subresource_update(subresource, new, old)

    def _gone_after(self, new: Object) -> bool:
        """Whether an update takes away the last thing that kept a deleted object."""
        metadata = new["metadata"]
        return bool(
            metadata.get("deletionTimestamp")
            and not metadata.get("finalizers")
            and not metadata.get("deletionGracePeriodSeconds")
            and not self.strategy.holds_deletion(new)
        )

    async def _replace(
        self, ctx: RequestContext, entry: Entry, new: Object, old: Object, finish: Finish | None
    ) -> Written:
        key = self.store_key(ctx.namespace, ctx.name)
        committed = False
        try:
            if ctx.dry_run:
                return Written(self._unsaved(ctx.namespace, ctx.name, new, entry.revision))
            value = self._encode(key, await self.stored(new), old)
            try:
                lease = await self._leases.current() if self._leases else 0
                revision = await self._store.update(key, value, expect=entry.revision, lease=lease)
            except LeaseNotFound as error:
                raise self._lease_lost(error) from None
            except NoSpaceError as error:
                raise _no_space(error) from None
            finally:
                self._cache.forget_description(key)
            committed = True
            self.strategy.after_update(ctx, new, old)
            return Written(await self._saved(ctx.namespace, ctx.name, revision))
        finally:
            if finish is not None:
                finish(committed)

    async def _remove_instead(self, ctx: RequestContext, entry: Entry, new: Object, old: Object) -> Written:
        """The update was the last step of a deletion."""
        last = self._unsaved(ctx.namespace, ctx.name, new, entry.revision)
        if not ctx.dry_run:
            await self._store.delete(self.store_key(ctx.namespace, ctx.name), expect=entry.revision)
            self.strategy.after_delete(ctx, new)
        return Written(last, deleted=True)

    # --- delete -----------------------------------------------------------------------------------
    async def delete(self, ctx: RequestContext, options: DeleteOptions, admission: Admission) -> Written:
        """Delete an object, or begin to: see the module and `Written`."""
        validated = False
        for _ in range(UPDATE_ATTEMPTS):
            entry = await self.current(ctx.namespace, ctx.name)
            obj = self.decode(entry)
            if options.preconditions is not None:
                if self.group_resource in _CHECKED_BY_STORAGE:
                    options.preconditions.check_storage(self.group_resource, obj["metadata"], entry.revision)
                else:
                    options.preconditions.check(self.group_resource, self.group_kind, obj["metadata"], entry.revision)
            if not validated:
                await admission.validate(None, obj)
                validated = True
                entry = await self.current(ctx.namespace, ctx.name)
                obj = self.decode(entry)
            try:
                return await self._delete(ctx, entry, obj, options)
            except CompareFailed as error:
                if error.current is None:
                    raise not_found(self.group_resource, ctx.name) from None
                await self._cache.wait_revision(error.current.mod_revision, 5.0)
        raise timeout("there was too much contention on the object; try again", 1)

    async def _delete(self, ctx: RequestContext, entry: Entry, obj: Object, options: DeleteOptions) -> Written:
        metadata = obj["metadata"]
        graceful, pending = self._begin_graceful(ctx, obj, options)
        if pending:
            return Written(entry)
        wanted = finalizers_for_deletion(options, metadata.get("finalizers") or (), self.strategy.garbage_collection)
        if wanted is not None:
            if wanted:
                metadata["finalizers"] = wanted
            else:
                metadata.pop("finalizers", None)
        held = bool(metadata.get("finalizers")) or self.strategy.holds_deletion(obj)
        if held and not graceful:
            self._mark_deleting(ctx, obj)
        if held or graceful:
            entry = await self._mark(ctx, entry, obj)
            if held or metadata.get("deletionGracePeriodSeconds"):
                return Written(entry, marked=True)
        if ctx.dry_run:
            return Written(entry, deleted=True)
        try:
            gone = await self._store.delete(self.store_key(ctx.namespace, ctx.name), expect=entry.revision)
        except CompareFailed as error:
            if error.current is None and graceful:
                return Written(entry, deleted=True)
            raise
        self.strategy.after_delete(ctx, obj)
        return Written(entry.moved(gone.revision), deleted=True)

    def _begin_graceful(self, ctx: RequestContext, obj: Object, options: DeleteOptions) -> tuple[bool, bool]:
        """(the object was marked for a graceful deletion, one is under way already and nothing changes)."""
        metadata = obj["metadata"]
        period = self.strategy.check_graceful_deletion(ctx, obj, options.grace_period_seconds)
        if period is None:
            return False, False
        if metadata.get("deletionTimestamp"):
            running = metadata.get("deletionGracePeriodSeconds")
            if running is None:
                return False, False
            asked = options.grace_period_seconds
            if asked is None or asked >= running:
                return False, True
            # Only a shorter period may be asked for.
            moment = parse_rfc3339(metadata["deletionTimestamp"]) - timedelta(seconds=running - asked)
            metadata["deletionTimestamp"] = format_time(moment)
            metadata["deletionGracePeriodSeconds"] = asked
            return True, False
        metadata["deletionTimestamp"] = format_time(ctx.now + timedelta(seconds=period))
        metadata["deletionGracePeriodSeconds"] = period
        if metadata.get("generation"):
            metadata["generation"] += 1
        return True, False

    def _mark_deleting(self, ctx: RequestContext, obj: Object) -> None:
        metadata = obj["metadata"]
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = format_time(ctx.now)
            if metadata.get("generation"):
                metadata["generation"] += 1
        if not self.strategy.holds_deletion(obj):
            metadata["deletionGracePeriodSeconds"] = 0
        self.strategy.prepare_for_deletion(ctx, obj)

    async def _mark(self, ctx: RequestContext, entry: Entry, obj: Object) -> Entry:
        old = self.decode(entry)
        if obj == old:
            return entry
        return (await self._replace(ctx, entry, obj, old, None)).entry

    # --- bytes ------------------------------------------------------------------------------------
    def _encode(
        self,
        key: str,
        obj: Object,
        like: Object | None = None,
        template: tuple[Known, bytes] | None = None,
    ) -> bytes:
        """The bytes to store; `like` is the version before, in normal form, if there was one."""
        if template is not None and self.schema is not None:
            value = self._bytes_with(obj, self.schema, *template)
        elif like is None or self.schema is None or self.schema.custom:
            value = self._bytes_of(obj)
        else:
            value = encode_stored(normalize(obj, self.schema, like, checked=True), self.resource.kind, self.api_version)
        if len(value) > MAX_OBJECT_BYTES:
            raise request_entity_too_large(f"limit is {MAX_OBJECT_BYTES}")
        labels = obj["metadata"].get("labels") or {}
        self._cache.describe(key, value, labels, self.strategy.selectable_fields(obj))
        return value

    def _bytes_with(self, obj: Object, schema: TypeSchema, known: Known, name: bytes) -> bytes:
        """As `_bytes_of`, the part of the template as it was encoded before."""
        part = self.strategy.template_part
        ready = known.bytes_with(name)
        if ready is None:
            normal = normalize(obj, schema)
            known.keep(orjson.dumps(normal[part]), name)
            return encode_stored(normal, self.resource.kind, self.api_version)
        normal = normalize({key: value for key, value in obj.items() if key != part}, schema)
        normal[part] = orjson.Fragment(ready)
        wire = {key: normal[key] for key in schema.fields if key in normal}
        return encode_stored(wire, self.resource.kind, self.api_version)

    async def _saved(self, namespace: str, name: str, revision: int) -> Entry:
        """The version just committed."""
        return committed(self.kind, namespace, name, revision)

    def _unsaved(self, namespace: str, name: str, obj: Object, revision: int = 0) -> Entry:
        """What an answer of a dry run carries: the object, with the version it had before (0: none)."""
        own = f"{namespace}/{name}" if self.resource.namespaced else name
        return Entry(own, namespace, name, self._bytes_of(obj), revision, 0)

    def _bytes_of(self, obj: Object) -> bytes:
        """What the store would hold: the normal form again, as strategies and plug-ins may have added to it."""
        if self.schema is not None:
            obj = normalize(obj, self.schema)
        return encode_stored(obj, self.resource.kind, self.api_version)


def committed(kind: Kind, namespace: str, name: str, revision: int) -> Entry:
    """The version written at `revision`: from the cache, unless somebody has changed it again already."""
    entry = kind.cache.get(namespace, name)
    if entry is not None and entry.revision == revision:
        return entry
    for event in reversed(kind.cache.history):
        if event.revision == revision and event.entry is not None:
            return event.entry
    raise timeout("the write was committed, but has not reached this server's cache yet", 1)


def _no_space(error: NoSpaceError) -> StatusError:
    return StatusError(status_of(500, "", f"etcdserver: {error}"))


def same_object(new: Object, old: Object) -> bool:
    """Whether an update changes nothing. Times of managedFields do not count, and then stay as they were."""
    if new.keys() - _NEVER_COMPARED != old.keys() - _NEVER_COMPARED:
        return False
    for key, value in new.items():
        if key not in _NEVER_COMPARED and key != "metadata" and value != old[key]:
            return False
    return _comparable(new["metadata"]) == _comparable(old["metadata"])


_NEVER_COMPARED: Final = frozenset({"kind", "apiVersion"})


def _comparable(metadata: Object) -> dict[str, Any]:
    plain = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    managed: Sequence[dict[str, Any]] = plain.get("managedFields") or ()
    if managed:
        plain["managedFields"] = [{key: value for key, value in one.items() if key != "time"} for one in managed]
    else:
        plain.pop("managedFields", None)
    return plain
