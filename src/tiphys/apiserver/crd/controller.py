"""The CRD controller, inside the API server: names accepted, resources served, instances deleted with their definition.

    every change of a definition ─▶ sync: names and conditions ─▶ status
                                         established ─▶ resource map (discovery and OpenAPI follow)
                                         marked for deletion ─▶ instances deleted ─▶ finalizer taken away

Level-driven: a sync looks at all definitions there are, so lost or repeated changes are harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tiphys.api.table import Resource
from tiphys.apiserver.bootstrap.changes import Changes
from tiphys.apiserver.bootstrap.writer import SERVER, Writer
from tiphys.apiserver.crd.conversion import Caller, ConversionWebhook
from tiphys.apiserver.crd.converted import ConvertedStore
from tiphys.apiserver.crd.definition import deprecation, resource_of, storage_version
from tiphys.apiserver.crd.mirror import Mirror
from tiphys.apiserver.crd.openapi import definitions_of
from tiphys.apiserver.crd.rules import RuleError
from tiphys.apiserver.crd.scale import CustomScale
from tiphys.apiserver.crd.store import CustomForm, CustomStore
from tiphys.apiserver.crd.strategy import CustomStrategy
from tiphys.apiserver.crd.structural import resource_schema, structural
from tiphys.apiserver.crd.terminating import FINALIZER, condition, set_condition
from tiphys.apiserver.crd.translator import Translator
from tiphys.apiserver.registry.options import DeleteOptions
from tiphys.apiserver.registry.resources import CacheReader, ResourceMap, ServedResource
from tiphys.apiserver.registry.store import NoAdmission
from tiphys.apiserver.registry.strategy import RequestContext
from tiphys.apiserver.watchcache import Kind, KindCache, WatchCache
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.machinery.errors import NotFoundError, StatusError
from tiphys.machinery.time import format_time

log = get_logger(__name__)
Object = dict[str, Any]

GROUP: Final = "apiextensions.k8s.io"
PLURAL: Final = "customresourcedefinitions"
NAMES: Final = ("plural", "singular", "shortNames", "kind", "listKind", "categories")


class CustomResources:
    """The loop; `start` and `stop` it."""

    def __init__(
        self,
        resources: ResourceMap,
        reader: CacheReader,
        cache: WatchCache,
        clock: Clock,
        extra: dict[tuple[str, str, str], Any],
        webhooks: Caller,
    ) -> None:
        """`extra`: where handlers of further subresources are put. `webhooks` calls those that convert."""
        self._resources = resources
        self._reader = reader
        self._cache = cache
        self._clock = clock
        self._extra = extra
        self._webhooks = webhooks
        self._writer = Writer(resources, reader, clock.now)
        self._tasks = Supervised(clock)
        self._changes: Changes | None = None
        # What is served: definition → (its uid and spec, resources).
        self._served: dict[str, tuple[Any, list[Resource]]] = {}
        # What follows the objects of definitions with a conversion webhook.
        self._mirrors: dict[str, list[Mirror]] = {}

    async def start(self) -> None:
        """Serve what the definitions describe, and follow them."""
        kind = self._cache.kind(GROUP, PLURAL)
        if kind is None:
            return
        self._changes = Changes([kind])
        await self._tasks.__aenter__()
        await self._sync()
        self._tasks.spawn(self._run, name="custom-resources", restart=True)

    async def stop(self) -> None:
        """End the loop."""
        if self._changes is not None:
            await self._tasks.__aexit__(None, None, None)
            self._changes.close()
            self._changes = None

    async def _run(self) -> None:
        assert self._changes is not None
        changed = self._changes.changed
        while True:
            await changed.wait()
            changed.clear()
            try:
                await self._sync()
            except BaseException:
                changed.set()  # the next attempt looks again
                raise

    async def _sync(self) -> None:
        definitions = list(self._reader.list(GROUP, PLURAL))
        for name in set(self._served) - {one["metadata"]["name"] for one in definitions}:
            self._withdraw(name)
        for definition in sorted(definitions, key=lambda one: one["metadata"].get("creationTimestamp", "")):
            name = definition["metadata"]["name"]
            if definition["metadata"].get("deletionTimestamp"):
                await self._remove(definition)
                continue
            status = wanted_status(definition, definitions, self._now())
            if status is not None:
                with suppress(NotFoundError):
                    await self._writer.change_status(GROUP, PLURAL, "", name, partial(_put, status))
                definition = self._reader.get(GROUP, PLURAL, ("", name)) or definition
            if _established(definition):
                self._serve(definition)

    def _now(self) -> str:
        return format_time(self._clock.now())

    def openapi(self) -> dict[str, Object]:
        """OpenAPI definitions of what is served, by their names."""
        found: dict[str, Object] = {}
        for one in [resource for _, resources in self._served.values() for resource in resources]:
            served = self._resources.find(one.group, one.version, one.plural)
            if served is not None and isinstance(served.strategy, CustomStrategy):
                found.update(definitions_of(one, served.strategy.schema.raw, served.strategy.declared_fields))
        return found

    # --- serving ----------------------------------------------------------------------------------
    def _serve(self, definition: Mapping[str, Any]) -> None:
        metadata, spec = definition["metadata"], definition["spec"]
        name, key = metadata["name"], (metadata["uid"], spec)
        known = self._served.get(name)
        if known is not None and known[0] == key:
            return
        accepted = {**spec, "names": {**spec["names"], **(definition["status"].get("acceptedNames") or {})}}
        try:
            served = self._versions(accepted, fresh=metadata.get("generation", 1) == 1)
        except (RuleError, ValueError) as error:
            log.error("the definition %s cannot be served: %s", name, error)
            return
        before = known[1] if known is not None else []
        resources = [one.resource for one in served]
        self._follow(name, [one.store.mirror for one in served if isinstance(one.store, ConvertedStore)])
        if known is not None and served and not self._mirrors.get(name):
            _refresh_fields(served[-1])
        for one in served:
            self._resources.add(one)
        for old in before:
            if (old.group, old.version, old.plural) not in {(one.group, one.version, one.plural) for one in resources}:
                self._resources.remove(old.group, old.version, old.plural)
        self._served[name] = (key, resources)

    def _versions(self, spec: Mapping[str, Any], *, fresh: bool) -> list[ServedResource]:
        stored = resource_of(spec, storage_version(spec))
        translator = self._translator(spec)
        several = len(spec["versions"]) > 1
        served: list[ServedResource] = []
        stores: dict[str, CustomStore] = {}
        # The storage version comes last: the map's `store(group, plural)` is then the one that knows its shape.
        versions = [one for one in spec["versions"] if one.get("served")]
        paths = {one["jsonPath"]: None for version in versions for one in version.get("selectableFields") or ()}
        for version in sorted(versions, key=lambda one: bool(one.get("storage"))):
            resource = resource_of(spec, version)
            schema = structural((version.get("schema") or {}).get("openAPIV3Schema"))
            strategy = CustomStrategy(resource, version, schema)
            if translator is None:
                strategy.selectable = list(paths)
            kind = self._cache.register(
                resource.group,
                resource.plural,
                namespaced=resource.namespaced,
                selectable_fields=strategy.selectable_fields,
            )
            shape = resource_schema(schema, resource.group, resource.version, resource.kind)
            exact = fresh and not several and not schema.has_defaults
            if translator is None:
                store = CustomStore(strategy, kind, self._cache, self._clock.now, shape, stored, exact=exact)
            else:
                mirror = self._mirror(kind, strategy, translator)
                store = ConvertedStore(strategy, mirror, self._cache, self._clock.now, shape, stored, translator)
            one = ServedResource(resource, store, shape)
            one.warning = deprecation(spec, version)
            one.plain_form = CustomForm(one, spec["names"].get("listKind") or f"{resource.kind}List")
            served.append(one)
            stores[resource.api_version] = store
            store.versions = stores
            if "scale" in resource.subresources:
                self._extra[resource.group, resource.plural, "scale"] = CustomScale()
        return served

    def _translator(self, spec: Mapping[str, Any]) -> Translator | None:
        """What makes versions of objects by a webhook; None where versions differ in their schemas only."""
        conversion = spec.get("conversion") or {}
        if conversion.get("strategy") != "Webhook" or len(spec["versions"]) < 2:
            return None
        schemas = {
            f"{spec['group']}/{one['name']}": structural((one.get("schema") or {}).get("openAPIV3Schema"))
            for one in spec["versions"]
        }
        webhook = ConversionWebhook(conversion.get("webhook") or {}, self._webhooks)
        return Translator(spec["names"]["kind"], schemas, webhook)

    def _mirror(self, source: Kind, strategy: CustomStrategy, translator: Translator) -> Mirror:
        own = KindCache(
            source.cache.prefix,
            namespaced=source.cache.namespaced,
            selectable_fields=strategy.selectable_fields,
            revision=self._cache.revision,
        )
        return Mirror(source, Kind(own), strategy.resource.api_version, translator, self._cache, self._tasks)

    def _follow(self, name: str, mirrors: list[Mirror]) -> None:
        """These follow the objects of a definition from now on; watches of what served them before end."""
        before = self._mirrors.pop(name, [])
        for mirror in before:
            mirror.detach()
        if mirrors:
            self._mirrors[name] = mirrors
            if not before:
                mirrors[0].source.watchers.end_all()

    def _withdraw(self, name: str) -> None:
        self._follow(name, [])
        _, resources = self._served.pop(name)
        for one in resources:
            self._resources.remove(one.group, one.version, one.plural)
            self._extra.pop((one.group, one.plural, "scale"), None)
        if resources:
            self._cache.unregister(resources[0].group, resources[0].plural)

    # --- deletion ---------------------------------------------------------------------------------
    async def _remove(self, definition: Mapping[str, Any]) -> None:
        metadata = definition["metadata"]
        name = metadata["name"]
        if FINALIZER not in (metadata.get("finalizers") or ()):
            return
        if _established(definition):
            self._serve(definition)
        await self._set_terminating(
            name, "InstanceDeletionInProgress", "CustomResource deletion is in progress", "True"
        )
        left = await self._delete_instances(definition["spec"])
        if left:
            # Objects with finalizers: their own controllers still have to see to them.
            await self._clock.sleep(0.5)
            assert self._changes is not None
            self._changes.changed.set()
            return
        await self._set_terminating(name, "InstanceDeletionCompleted", "removed all instances", "False")
        with suppress(NotFoundError):
            await self._writer.update(GROUP, "v1", PLURAL, "", name, _without_finalizer)

    async def _set_terminating(self, name: str, reason: str, message: str, status: str) -> None:
        wanted = condition("Terminating", status, reason, message, self._now())
        with suppress(NotFoundError):
            await self._writer.change_status(GROUP, PLURAL, "", name, partial(_put_condition, wanted))

    async def _delete_instances(self, spec: Mapping[str, Any]) -> int:
        """Delete every object; how many stay for a while."""
        store = self._resources.store(spec["group"], spec["names"]["plural"])
        if store is None:
            return 0
        left = 0
        kind = self._cache.kind(spec["group"], spec["names"]["plural"]) or store.kind
        for entry in list(kind.cache.entries.values()):
            ctx = RequestContext(
                user=SERVER, now=self._clock.now(), reader=self._reader, namespace=entry.namespace, name=entry.name
            )
            try:
                written = await store.delete(ctx, DeleteOptions(raw={}), NoAdmission())
            except NotFoundError:
                continue
            except StatusError as error:
                log.warning("%s %s cannot be deleted: %s", spec["names"]["plural"], entry.key, error)
                left += 1
                continue
            left += not written.deleted
        return left


def _refresh_fields(served: ServedResource) -> None:
    """Selectable fields may be others after a change of the definition."""
    for entry in served.store.kind.cache.entries.values():
        entry.set_fields(served.strategy.selectable_fields(entry.peek()))


# --- status ---------------------------------------------------------------------------------------
def _established(definition: Mapping[str, Any]) -> bool:
    return _status_of(definition, "Established") == "True"


def _conditions(definition: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (definition.get("status") or {}).get("conditions") or ()


def _status_of(definition: Mapping[str, Any], kind: str) -> str:
    return next((one.get("status", "") for one in _conditions(definition) if one.get("type") == kind), "")


def wanted_status(definition: Mapping[str, Any], every: Sequence[Mapping[str, Any]], now: str) -> Object | None:
    """acceptedNames and conditions a definition should have; None when it has them."""
    names, group = definition["spec"]["names"], definition["spec"]["group"]
    status = definition.get("status") or {}
    accepted = dict(status.get("acceptedNames") or {})
    taken = _taken(definition, every, group)
    conflict: tuple[str, str] | None = None
    for name in NAMES:
        given = names.get(name)
        if name == "categories":
            _take(accepted, name, given)
            continue
        space = taken[name in ("kind", "listKind")]
        values = given if isinstance(given, list) else [given] if given else []
        clash = next((one for one in values if one in space), None)
        if clash is None:
            _take(accepted, name, given)
        else:  # the last conflict is the one that is told
            reason = {"shortNames": "ShortNamesConflict", "listKind": "ListKindConflict"}.get(
                name, f"{name.title()}Conflict"
            )
            conflict = (reason, f'"{clash}" is already in use')
    if conflict is None:
        ok = condition("NamesAccepted", "True", "NoConflicts", "no conflicts found", now)
    else:
        ok = condition("NamesAccepted", "False", *conflict, now)
    established = condition("Established", "False", "NotAccepted", "not all names are accepted", now)
    if _status_of(definition, "Established") == "True" or conflict is None:
        message = "the initial names have been accepted"
        established = condition("Established", "True", "InitialNamesAccepted", message, now)
    new: Object = {**status, "acceptedNames": accepted, "conditions": list(_conditions(definition))}
    changed = accepted != (status.get("acceptedNames") or {})
    for one in (ok, established):
        changed |= set_condition({"status": new}, one)
    return {"acceptedNames": accepted, "conditions": new["conditions"]} if changed else None


def _take(accepted: Object, name: str, given: Any) -> None:
    if given:
        accepted[name] = given
    else:
        accepted.pop(name, None)


def _taken(definition: Mapping[str, Any], every: Sequence[Mapping[str, Any]], group: str) -> tuple[set[str], set[str]]:
    """(resource names, kinds) others of the group have."""
    names: set[str] = set()
    kinds: set[str] = set()
    for other in every:
        if other["spec"]["group"] != group or other["metadata"]["name"] == definition["metadata"]["name"]:
            continue
        accepted = (other.get("status") or {}).get("acceptedNames") or {}
        names |= {accepted.get("plural", ""), accepted.get("singular", ""), *(accepted.get("shortNames") or ())}
        kinds |= {accepted.get("kind", ""), accepted.get("listKind", "")}
    return names - {""}, kinds - {""}


def _put(status: Object, obj: Object) -> None:
    obj["status"] = {**(obj.get("status") or {}), **status}


def _put_condition(wanted: Object, obj: Object) -> None:
    set_condition(obj, wanted)


def _without_finalizer(obj: Object) -> None:
    metadata = obj["metadata"]
    metadata["finalizers"] = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
    if not metadata["finalizers"]:
        del metadata["finalizers"]
