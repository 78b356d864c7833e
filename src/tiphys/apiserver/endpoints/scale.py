"""The scale subresource: how many replicas a workload should have, whatever its kind.

https://kubernetes.io/docs/reference/kubernetes-api/autoscaling-resources/ (autoscaling/v1 Scale)
"""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.schemas import schema_of
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.body import BodyDecoder, check_write_options, media_type_of
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.endpoints.forms import column_definitions, partial_metadata
from tiphys.apiserver.endpoints.managed import own_replicas
from tiphys.apiserver.endpoints.negotiation import PARTIAL, TABLE
from tiphys.apiserver.endpoints.patch import APPLY_PATCH, Patch, patch_type
from tiphys.apiserver.endpoints.write import check_names
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import (
    CREATED_AT_COLUMN,
    NAME_COLUMN,
    Column,
    NameRule,
    Object,
    RequestContext,
    age,
)
from tiphys.apiserver.registry.validation.meta import validate_object_meta
from tiphys.machinery import field
from tiphys.machinery.errors import conflict, invalid, modified, plain_error
from tiphys.machinery.field import FieldError, Path, quote
from tiphys.machinery.meta import GroupKind, GroupResource, GroupVersionKind
from tiphys.machinery.selectors import LabelSelector

SCALE: Final = GroupVersionKind("autoscaling", "v1", "Scale")
COLUMNS: Final = (
    Column("Name", "string", NAME_COLUMN.description),
    Column("Desired", "integer", "replicas is the desired number of instances for the scaled object."),
    Column("Available", "integer", "replicas is the actual number of observed instances of the scaled object."),
    Column("Age", "string", CREATED_AT_COLUMN.description),
)


def scale_of(obj: Object) -> Object:
    """The Scale of a workload."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    replicas = spec.get("replicas") or 0
    scale: Object = {
        "kind": SCALE.kind,
        "apiVersion": SCALE.api_version,
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": {"replicas": status.get("replicas") or 0},
    }
    selector = _selector_text(spec.get("selector"))
    if selector:
        scale["status"]["selector"] = selector
    return scale


def _selector_text(selector: Any) -> str:
    if not selector:
        return ""
    if "matchLabels" in selector or "matchExpressions" in selector:
        return str(LabelSelector.of_dict(selector))
    return str(LabelSelector.of_labels(selector))


async def serve_scale(api: ApiRequest, served: ServedResource, verb: str) -> Response:
    """Answer GET, PUT and PATCH of a scale."""
    if verb == "get":
        entry = served.store.get(api.info.namespace, api.info.name)
        return scale_answer(api, scale_of(served.store.decode(entry)))
    schema = schema_of("autoscaling", "v1", "Scale")
    patch: Patch | None = None
    body: Object = {}
    if verb == "patch":
        media = patch_type(api)
        if media != APPLY_PATCH:
            patch = Patch(api, SCALE, schema, media)
    if patch is None:
        check_write_options(api.query, "UpdateOptions")
        content_type = api.request.headers.get("content-type", "")
        if verb == "patch":
            content_type = "application/yaml"
        decoder = BodyDecoder(SCALE, schema, api.parameter("fieldValidation"), api.warnings)
        body = decoder.decode(api.request.body, media_type_of(content_type))
        if verb != "patch":
            check_names(api, body, namespaced=True, named=True)
    ctx = api.context()
    admission = RequestAdmission(api, served, Operation.UPDATE, {"kind": "UpdateOptions"}, kind=SCALE)

    async def make(old: Object | None, revision: int) -> Object:
        assert old is not None
        current = scale_of(old)
        wanted = patch.apply(current) if patch is not None else body
        if verb == "patch":
            if patch is None:
                # What is applied goes over what is there: it need not say the name again.
                wanted["metadata"] = {"name": api.info.name} | (wanted.get("metadata") or {})
            check_names(api, wanted, namespaced=True, named=True)
        _check_uid(ctx, served, wanted, old, patched=patch is not None)
        errors = _errors(wanted)
        if errors:
            raise invalid(GroupKind("autoscaling", "Scale"), api.info.name, errors)
        version = _version(wanted)
        if version and version != str(revision):
            raise modified(served.group_resource, api.info.name)
        await admission.mutate(wanted, current)
        new = served.store.decode(served.store.get(ctx.namespace, ctx.name))
        new["spec"]["replicas"] = (wanted.get("spec") or {}).get("replicas") or 0
        if patch is not None or not version:
            new["metadata"].pop("resourceVersion", None)
        own_replicas(ctx, old, new, current, scale_of(new))
        return new

    written = await served.store.update(ctx, make, admission, patching=True)
    return scale_answer(api, scale_of(served.store.decode(written.entry)))


def _check_uid(ctx: RequestContext, served: ServedResource, wanted: Object, old: Object, *, patched: bool) -> None:
    """Refuse (409) a Scale of another object than the one that is there."""
    uid, known = wanted["metadata"].get("uid"), old["metadata"]["uid"]
    if not uid or uid == known:
        return
    if not patched:
        raise served.store.precondition_conflict(ctx, "UID", uid, known)
    resource = GroupResource(served.resource.group, f"{served.resource.plural}/scale")
    message = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}"
    raise conflict(resource, ctx.name, message)


def _errors(scale: Object) -> list[FieldError]:
    errors = validate_object_meta(scale["metadata"], True, NameRule.PATH_SEGMENT)
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if replicas < 0:
        errors.append(field.invalid(Path("spec").child("replicas"), replicas, "must be greater than or equal to 0"))
    return errors


def _version(scale: Object) -> str:
    """The resourceVersion a Scale names, "" for none. StatusError (500) for what is no number."""
    version = str(scale["metadata"].get("resourceVersion") or "")
    if version and not (version.isascii() and version.isdecimal()):
        raise plain_error(f"strconv.ParseUint: parsing {quote(version)}: invalid syntax")
    return "" if version == "0" else version


def scale_answer(api: ApiRequest, scale: Object) -> Response:
    """Answer with a Scale, as a Table or its metadata alone when that is asked for."""
    if api.wanted.transform == PARTIAL:
        return value_response(200, partial_metadata(scale, api.wanted.meta_version), api.wanted)
    if api.wanted.transform == TABLE:
        now = api.services.now()
        cells = [
            scale["metadata"]["name"],
            scale["spec"].get("replicas", 0),
            scale["status"]["replicas"],
            age(scale, now),
        ]
        table = {
            "kind": TABLE,
            "apiVersion": f"meta.k8s.io/{api.wanted.meta_version}",
            "metadata": {"resourceVersion": scale["metadata"].get("resourceVersion", "")},
            "columnDefinitions": column_definitions(COLUMNS),
            "rows": [{"cells": cells, "object": partial_metadata(scale, api.wanted.meta_version)}],
        }
        return value_response(200, table, api.wanted)
    return value_response(200, scale, api.wanted)
