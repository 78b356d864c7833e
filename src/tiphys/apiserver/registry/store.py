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

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

import orjson

from tiphys.apiserver.registry.disabled import drop_disabled_fields
from tiphys.apiserver.registry.finalizers import finalizers_for_deletion
from tiphys.apiserver.registry.metadata_causes import repeated
from tiphys.apiserver.registry.names import generate_name, new_uid
from tiphys.apiserver.registry.options import DeleteOptions, Preconditions
from tiphys.apiserver.registry.stored import CREATE, UPDATE, StoredObjects, same_object
from tiphys.apiserver.registry.strategy import Finish, Object, RequestContext
from tiphys.apiserver.registry.templates import Known
from tiphys.apiserver.registry.upstream_keys import upstream_place
from tiphys.apiserver.registry.validation.meta import validate_object_meta, validate_object_meta_update
from tiphys.apiserver.watchcache import Entry
from tiphys.machinery import field
from tiphys.machinery.errors import (
    StatusError,
    already_exists,
    conflict,
    generate_name_conflict,
    invalid,
    modified,
    not_found,
    status_of,
    timeout,
)
from tiphys.machinery.field import FieldError, Path
from tiphys.machinery.meta import GroupKind, GroupResource
from tiphys.machinery.time import format_time, parse_rfc3339
from tiphys.store import CompareFailed, KeyExists, LeaseNotFound, NoSpaceError

NAME_ATTEMPTS: Final = 8
UPDATE_ATTEMPTS: Final = 100
METADATA: Final = Path("metadata")

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


class ResourceStore(StoredObjects):
    """All objects of one resource, in its storage version: how they are written."""

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

    async def _create(self, ctx: RequestContext, obj: Object, admission: Admission) -> Written:
        strategy = self.strategy
        metadata = obj["metadata"]
        strategy.prepare_for_create(ctx, obj)
        drop_disabled_fields(obj, strategy.pod_spec)
        template = self._templates.find(obj.get(strategy.template_part)) if strategy.template_part else None
        self._validate_new(ctx, obj, template)
        await admission.validate(obj, None)
        version = metadata.get("resourceVersion") or ""
        if version.strip("0").isdecimal() and not ctx.dry_run:  # what is no number counts as none
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
                revision = await self._timed(CREATE, self._store.create(key, value, lease=lease))
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
        errors = [] if strategy.metadata_last else self._metadata_errors(obj["metadata"])
        if template is not None and template[0].valid:
            found, warnings = strategy.validate_rest(obj)
            errors += found
        else:
            errors += strategy.validate(obj)
            if strategy.metadata_last and not errors:
                errors = self._metadata_errors(obj["metadata"])
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
            raise self.precondition_conflict(ctx, "UID", metadata["uid"], "")
        metadata.setdefault("name", ctx.name)
        if metadata.get("resourceVersion"):
            raise not_found(self.group_resource, ctx.name)
        self._fill_system_fields(ctx, new)
        try:
            return await self._create(ctx, new, admission)
        except KeyExists:
            return None  # somebody else created it: this is an update then

    def precondition_conflict(self, ctx: RequestContext, what: str, wanted: str, found: str) -> StatusError:
        """409: the object has another UID (`what`) or so than the request means, in the words of upstream's storage."""
        upstream = upstream_place(self.resource.group, self.resource.plural)
        place = f"{ctx.namespace}/{ctx.name}" if self.resource.namespaced else ctx.name
        prefix = "" if ctx.dry_run else "/registry"  # a dry run ends above the store's own prefix
        told = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
        key = f"{prefix}/{upstream}/{place}, ResourceVersion: 0, AdditionalErrorMsg: {told}"
        return conflict(self.group_resource, ctx.name, f"StorageError: invalid object, Code: 4, Key: {key}")

    def _check_version(self, ctx: RequestContext, new: Object, old: Object, entry: Entry, patching: bool) -> bool:
        """Optimistic concurrency; True when the client named the version it knows."""
        metadata = new["metadata"]
        version = metadata.get("resourceVersion") or ""
        uid = metadata.get("uid")
        if uid and not patching and uid != old["metadata"]["uid"]:
            raise self.precondition_conflict(ctx, "UID", uid, old["metadata"]["uid"])
        if not version or version == "0":
            if patching or self.strategy.allow_unconditional_update:
                return False
            error = field.invalid(METADATA.child("resourceVersion"), 0, "must be specified for an update")
            raise invalid(GroupKind(*self.group_resource), ctx.name, [error])
        if version != str(entry.revision):
            if not version.isdecimal():
                raise StatusError(
                    status_of(500, "", f"strconv.ParseUint: parsing {field.quote(version)}: invalid syntax")
                )
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
            drop_disabled_fields(new, strategy.pod_spec)
        elif subresource == "status":
            strategy.prepare_for_status_update(ctx, new, old)
        else:
            strategy.prepare_for_subresource_update(subresource, ctx, new, old)
        counted = strategy.spec_changed(new, old) or (ctx.emptied and strategy.counts_emptied)
        if strategy.has_generation and subresource != "status" and counted:
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
        first = strategy.first_update_writes and entry.revision == entry.create_revision
        if same_object(new, old) and not first and not await self.outdated(ctx.namespace, ctx.name):
            await self._confirm(ctx, entry)
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
        for name in ("creationTimestamp", "generation", "selfLink"):
            if name in known:
                metadata[name] = known[name]
            else:
                metadata.pop(name, None)
        if "deletionTimestamp" in known:
            metadata.setdefault("deletionTimestamp", known["deletionTimestamp"])  # only deletion sets it: else an error
        # A client may shorten nothing here, and may not take the grace period away.
        if "deletionGracePeriodSeconds" in known:
            metadata.setdefault("deletionGracePeriodSeconds", known["deletionGracePeriodSeconds"])

    def _update_errors(self, subresource: str, new: Object, old: Object) -> list[FieldError]:
        strategy = self.strategy
        key = (self.resource.group, self.resource.plural)
        errors = repeated(self._metadata_errors(new["metadata"]), key, status=subresource == "status")
        changed = validate_object_meta_update(new["metadata"], old["metadata"])
        errors += changed
        if not subresource or subresource == "scale":
            again = changed if strategy.checks_metadata_again else []
            return errors + again + strategy.validate_update(new, old)
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
            value = self._encode(key, await self.stored(new), old, normal=ctx.normal)
            try:
                lease = await self._leases.current() if self._leases else 0
                revision = await self._timed(UPDATE, self._store.update(key, value, expect=entry.revision, lease=lease))
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

    async def _confirm(self, ctx: RequestContext, entry: Entry) -> None:
        """Make sure that `entry` is current, where an answer is given without a write. Raises CompareFailed."""
        if not self._cache.shared:
            return
        await self._cache.wait_fresh()
        current = await self.find(ctx.namespace, ctx.name)
        if current is None or current.revision != entry.revision:
            raise CompareFailed(self.store_key(ctx.namespace, ctx.name), entry.revision, None)

    async def _remove_instead(self, ctx: RequestContext, entry: Entry, new: Object, old: Object) -> Written:
        """The update was the last step of a deletion."""
        last = self._unsaved(ctx.namespace, ctx.name, new, entry.revision)
        if not ctx.dry_run:
            await self._erase(ctx.namespace, ctx.name, entry)
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
                judged, entry = entry, await self.current(ctx.namespace, ctx.name)
                if entry is not judged:
                    obj = self.decode(entry)
            try:
                return await self._delete(ctx, entry, obj, options)
            except CompareFailed as error:
                if error.current is not None:
                    await self._cache.wait_revision(error.current.mod_revision, 5.0)
                elif self._cache.shared:
                    await self._cache.wait_fresh()
                else:
                    raise not_found(self.group_resource, ctx.name) from None
        raise timeout("there was too much contention on the object; try again", 1)

    async def _delete(self, ctx: RequestContext, entry: Entry, obj: Object, options: DeleteOptions) -> Written:
        metadata = obj["metadata"]
        graceful, pending = self._begin_graceful(ctx, obj, options)
        if pending and not self._is_unfinished(obj):
            await self._confirm(ctx, entry)
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
            gone = await self._erase(ctx.namespace, ctx.name, entry)
        except CompareFailed as error:
            if error.current is None and graceful:
                return Written(entry, deleted=True)
            raise
        self.strategy.after_delete(ctx, obj)
        return Written(entry.moved(gone.revision), deleted=True)

    def _is_unfinished(self, obj: Object) -> bool:
        """Whether nothing holds an object that is to go at once: a server died between the mark and the removal."""
        metadata = obj["metadata"]
        held = bool(metadata.get("finalizers")) or self.strategy.holds_deletion(obj)
        return metadata.get("deletionGracePeriodSeconds") == 0 and not held

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
            await self._confirm(ctx, entry)
            return entry
        return (await self._replace(ctx, entry, obj, old, None)).entry


def _no_space(error: NoSpaceError) -> StatusError:
    return StatusError(status_of(500, "", f"etcdserver: {error}"))
