"""POST, PUT and PATCH of stored objects, and of their subresources that write the object itself.

    body ─ decode (normal form, unknown fields) ─ to storage version ─ defaults ─ managedFields ─ admission ─▶ registry
    PATCH: the patch is applied to the current version, as often as somebody else is faster

managedFields are kept in the version of the request, and are settled before mutating admission as upstream does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.body import BodyDecoder, check_write_options, media_type_of
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.forms import form_for
from tiphys.apiserver.endpoints.managed import own_fields
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.store import Written
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.machinery.errors import bad_request
from tiphys.machinery.normalize import normalize

MANAGED: Final = "managedFields"


def written_response(api: ApiRequest, served: ServedResource, written: Written) -> Response:
    """Answer with the version a write ended in."""
    form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
    status = 201 if written.created else 200
    return Response(status, form.object(written.entry), content_type=form.content_type)


def decode_request(api: ApiRequest, served: ServedResource) -> Object:
    """The request's body as an object of the resource, in the version of the request."""
    decoder = BodyDecoder(served.resource.gvk, served.schema, api.parameter("fieldValidation"), api.warnings)
    media = media_type_of(api.request.headers.get("content-type", ""))
    obj = decoder.decode(api.request.body, media)
    api.emptied = decoder.emptied(api.request.body, media)
    return obj


def check_names(api: ApiRequest, obj: Object, *, namespaced: bool, named: bool) -> None:
    """Name and namespace of a body must be those of the URL; a missing namespace is filled in."""
    metadata = obj.setdefault("metadata", {})
    info = api.info
    if named:
        name = metadata.get("name") or ""
        if name != info.name:
            if name:
                raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({info.name})")
            raise bad_request(
                f"the name of the object ({info.name} based on URL) was undeterminable: name must be provided"
            )
    if not namespaced:
        metadata.pop("namespace", None)
        return
    namespace = metadata.get("namespace") or ""
    if not namespace:
        metadata["namespace"] = info.namespace
    elif namespace != info.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


async def create_object(api: ApiRequest, served: ServedResource) -> Response:
    """Answer a POST to a collection."""
    check_write_options(api.query, "CreateOptions")
    obj = decode_request(api, served)
    check_names(api, obj, namespaced=served.resource.namespaced, named=False)
    ctx = api.context()
    admission = RequestAdmission(api, served, Operation.CREATE, {"kind": "CreateOptions"})
    prepared = await prepare_new(api, served, ctx, obj, admission)
    return written_response(api, served, await served.store.create(ctx, prepared, admission))


async def prepare_new(
    api: ApiRequest, served: ServedResource, ctx: RequestContext, obj: Object, admission: RequestAdmission
) -> Object:
    """A decoded object of the request's version made ready for the registry: converted, defaulted, owned, admitted."""
    dedup_owners(obj, api.warnings)
    stored = served.to_storage(obj)
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        stored["metadata"].pop(name, None)  # nobody owns what is not taken
    served.strategy.default(stored)
    await with_conversions(lambda: own_fields(served, ctx, None, stored, api.emptied))
    await admission.mutate(stored, None)
    return stored


def dedup_owners(obj: Object, warnings: list[str]) -> None:
    """Owner references that come twice are dropped with a warning."""
    owners = obj["metadata"].get("ownerReferences")
    if not owners or len(owners) < 2:
        return
    kept: list[Any] = []
    for owner in owners:
        if owner not in kept:
            kept.append(owner)
    if len(kept) != len(owners):
        repeated = next(owner.get("uid", "") for index, owner in enumerate(owners) if owner in owners[:index])
        warnings.append(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, "
            "and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "
            f"{repeated}"
        )
        obj["metadata"]["ownerReferences"] = kept


async def update_object(api: ApiRequest, served: ServedResource) -> Response:
    """Answer a PUT of an object, or of a subresource that takes the whole object."""
    check_write_options(api.query, "UpdateOptions")
    body = decode_request(api, served)
    check_names(api, body, namespaced=served.resource.namespaced, named=True)
    if MANAGED not in body["metadata"] and b'"managedFields":[]' in api.request.body.replace(b" ", b""):
        body["metadata"][MANAGED] = [{}]  # an empty list says: forget who owned what
    ctx = api.context()
    may_create = not ctx.subresource and served.strategy.allow_create_on_update
    admission = RequestAdmission(api, served, Operation.UPDATE, {"kind": "UpdateOptions"})
    creating = RequestAdmission(api, served, Operation.CREATE, {"kind": "CreateOptions"})
    encoded = copier(body)

    async def make(old: Object | None, revision: int) -> Object:
        new = encoded()
        if old is None:
            return await prepare_new(api, served, ctx, new, creating)
        return await prepare_changed(api, served, ctx, new, old, admission)

    written = await served.store.update(ctx, make, admission, may_create=may_create, create_admission=creating)
    return written_response(api, served, written)


async def prepare_changed(
    api: ApiRequest,
    served: ServedResource,
    ctx: RequestContext,
    obj: Object,
    old: Object,
    admission: RequestAdmission,
) -> Object:
    """As prepare_new, for a replacement of `old` (in storage version, not changed)."""
    dedup_owners(obj, api.warnings)
    if served.conversion is None and served.schema is not None and not served.schema.custom:
        part = "status" if ctx.subresource == "status" else "spec"
        ctx.normal = {part: orjson.dumps(obj[part])} if obj.get(part) else {}
    stored = served.to_storage(obj)
    # A pod's spec is large, and a new status comes with the one that has its defaults already.
    if not served.strategy.defaults_spec_only or not ctx.subresource or stored.get("spec") != old.get("spec"):
        served.strategy.default(stored)
    await with_conversions(lambda: own_fields(served, ctx, old, stored, api.emptied))
    await admission.mutate(stored, old)
    return stored


def copier(obj: Object) -> Callable[[], Object]:
    """Fresh copies of a decoded object; the first is the object itself's, so a single use costs nothing."""
    first: list[Object] = [obj]
    encoded: list[bytes] = []

    def copy() -> Object:
        if not encoded:
            encoded.append(orjson.dumps(obj))
            return first.pop()
        fresh: Object = orjson.loads(encoded[0])
        return fresh

    return copy


def normal_form(served: ServedResource, obj: Object) -> Object:
    """The normal form of an object of the request's version."""
    return normalize(obj, served.schema) if served.schema is not None else obj
