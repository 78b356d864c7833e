"""Field ownership of a write: metadata.managedFields, in the version of the request.

Ownership is worked out on objects of the version the client spoke, because that is the version its entry names. Where a
resource has several shapes the entries of other versions are compared through conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tiphys.api.schemas import has_schema, schema_of
from tiphys.api.table import Resource, resource_by_kind
from tiphys.apiserver.registry.conversion import conversion_for
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.machinery.errors import StatusError, status_of
from tiphys.machinery.fieldset import difference, intersection, union
from tiphys.machinery.meta import split_api_version
from tiphys.machinery.misfit import DecodeError
from tiphys.machinery.normalize import normalize
from tiphys.machinery.patch.apply import decode, encode, server_side_apply, update_managed_fields
from tiphys.machinery.patch.integers import with_wrapped_integers
from tiphys.machinery.schema import TypeSchema
from tiphys.machinery.time import format_time

Node = dict[str, Any]


def _copy(value: Any) -> Any:
    """A deep copy of decoded JSON, in a fifth of the time of `copy.deepcopy`."""
    if isinstance(value, dict):
        return {key: _copy(one) if isinstance(one, (dict, list)) else one for key, one in value.items()}
    if isinstance(value, list):
        return [_copy(one) if isinstance(one, (dict, list)) else one for one in value]
    return value


def own_fields(
    served: ServedResource,
    ctx: RequestContext,
    old: Object | None,
    new: Object,
    emptied: Sequence[tuple[str, ...]] = (),
) -> None:
    """Note in `new` (storage version) which fields this write changed and who did it; `old` is not changed.

    `emptied` are lists the writer said are empty: they are its own although the object does not show a change.
    """
    if served.schema is None:
        return
    live, mine = old, new
    if served.conversion is not None:
        mine = served.from_storage(_copy(new))
        live = served.from_storage(_copy(old)) if old is not None else None
    entries = update_managed_fields(
        live,
        mine,
        ctx.field_manager,
        served.schema,
        ctx.now,
        api_version=served.resource.api_version,
        subresource=ctx.subresource,
        ignored=ignored_fields(served, ctx.subresource),
        convert=_converter(served),
    )
    if emptied and (old is None or entries):
        entries = _with_emptied(entries, served, ctx, emptied)
    if entries:
        new["metadata"]["managedFields"] = entries
    else:
        new["metadata"].pop("managedFields", None)


def _with_emptied(
    entries: list[Object], served: ServedResource, ctx: RequestContext, emptied: Sequence[tuple[str, ...]]
) -> list[Object]:
    mine: Node = {}
    for path in emptied:
        node = mine
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    owner = {"manager": ctx.field_manager, "operation": "Update", "apiVersion": served.resource.api_version}
    if ctx.subresource:
        owner["subresource"] = ctx.subresource
    for entry in entries:
        if all(entry.get(key, "") == owner.get(key, "") for key in IDENTITY):
            changed = {**entry, "fieldsV1": union(entry.get("fieldsV1") or {}, mine)}
            return encode(decode([changed if one is entry else one for one in entries]))
    added = {**owner, "time": format_time(ctx.now), "fieldsType": "FieldsV1", "fieldsV1": mine}
    return encode(decode([*entries, added]))


IDENTITY: Final = ("manager", "operation", "apiVersion", "subresource")


def apply_fields(
    served: ServedResource, ctx: RequestContext, live: Object | None, applied: Object, *, force: bool
) -> Object:
    """Server-side apply: the merged object with its managedFields, in normal form, in the version of the request."""
    schema = served.schema
    assert schema is not None
    try:
        result = server_side_apply(
            live,
            applied,
            ctx.field_manager,
            force,
            schema,
            ctx.now,
            api_version=served.resource.api_version,
            subresource=ctx.subresource,
            ignored=ignored_fields(served, ctx.subresource),
            convert=_converter(served),
        )
        merged = _normal(result.object, schema)
    except DecodeError as error:
        # The kinds of its values are right, but not what they say: numbers out of range, times that are none.
        raise _misfit(served.resource, applied, error) from None
    merged["kind"], merged["apiVersion"] = served.resource.kind, served.resource.api_version
    return merged


def _normal(merged: Object, schema: TypeSchema) -> Object:
    """The normal form of a merged object. Raises DecodeError."""
    applied = schema.compiled.get("applied")
    if applied is not None:
        out: Object = applied(merged)
        return out
    try:
        return normalize(merged, schema)
    except DecodeError:
        return normalize(with_wrapped_integers(merged, schema), schema)


def _misfit(resource: Resource, applied: Object, error: DecodeError) -> StatusError:
    """The answer to values of the right kind that say what their type cannot hold."""
    kind, version = resource.kind, resource.api_version
    shown = f"{version if '/' in version else '/' + version}, Kind={kind}"
    metadata = applied.get("metadata") or {}
    name = f"{metadata.get('namespace') or ''}/{metadata.get('name') or ''}"
    message = (
        f"failed to convert new object ({name}; {shown}) to proper version: unable to convert unstructured object "
        f"to {shown}: {error.converted}"
    )
    return StatusError(status_of(500, "", message))


REPLICAS: Final[Node] = {"f:spec": {"f:replicas": {}}}
SCALE_VERSION: Final = "autoscaling/v1"


def own_replicas(
    ctx: RequestContext,
    old: Object,
    new: Object,
    old_scale: Object,
    new_scale: Object,
    path: Sequence[str] = ("spec", "replicas"),
) -> None:
    """Note in `new` (a workload) who owns its replica count after a write of its scale.

    The scale is an object of its own to the tracking: those who own `spec.replicas` of the workload own it there.
    Nobody left there means that the count is not tracked any more.
    """
    count: Node = {}
    for name in reversed(path):
        count = {f"f:{name}": count}
    parent: list[Object] = old["metadata"].get("managedFields") or []
    owners = [
        {**entry, "apiVersion": SCALE_VERSION, "fieldsV1": REPLICAS}
        for entry in parent
        if intersection(entry.get("fieldsV1") or {}, count)
    ]
    live = {**old_scale, "metadata": {**old_scale["metadata"], "managedFields": owners}}
    entries = update_managed_fields(
        live,
        new_scale,
        ctx.field_manager,
        schema_of("autoscaling", "v1", "Scale"),
        ctx.now,
        api_version=SCALE_VERSION,
        subresource="scale",
    )
    kept: list[Object] = []
    for entry in parent:
        fields = difference(entry.get("fieldsV1") or {}, count)
        if fields:
            kept.append({**entry, "fieldsV1": fields})
    for entry in entries:
        _merge_owner(kept, {**entry, "apiVersion": new["apiVersion"], "fieldsV1": count})
    new["metadata"]["managedFields"] = encode(decode(kept))


def _merge_owner(entries: list[Object], owner: Object) -> None:
    for entry in entries:
        if all(entry.get(name, "") == owner.get(name, "") for name in IDENTITY):
            entry["fieldsV1"] = union(entry["fieldsV1"], owner["fieldsV1"])
            return
    owner.pop("time", None)
    entries.append(owner)


def ignored_fields(served: ServedResource, subresource: str) -> Node:
    """Fields a write through this (sub)resource does not touch, as a set: what the strategy resets."""
    strategy = served.strategy
    paths: Sequence[tuple[str, ...]] | None = strategy.reset_fields.get(subresource)
    if paths is None:
        if not subresource:
            paths = (("status",),) if strategy.has_status else ()
        else:
            paths = (("spec",),) if subresource == "status" else ()
            if paths and strategy.status_alone:
                paths = (("metadata",), *paths)
    root: Node = {}
    for path in paths:
        node = root
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    return root


def _converter(served: ServedResource) -> Callable[[Object, str], tuple[Object, TypeSchema] | None]:
    """Converts objects of the request's version to the version an entry of managedFields names."""
    resource, storage = served.resource, served.store.resource

    def convert(obj: Object, api_version: str) -> tuple[Object, TypeSchema] | None:
        if served.schema is not None and served.schema.custom:
            return served.store.in_version(obj, api_version)
        group, version = split_api_version(api_version)
        other = resource_by_kind(group, version, resource.kind)
        # Another group's fields have other names, and no way leads from one to the other: such an entry is given up.
        if other is None or group != resource.group or not has_schema(group, version, resource.kind):
            return None
        schema = schema_of(group, version, resource.kind)
        value = _copy(obj)
        if served.conversion is not None:
            value = served.to_storage(value)
        back = conversion_for(other, storage)
        if back is not None:
            value = normalize(back.from_storage(value), schema)
        return value, schema

    return convert
