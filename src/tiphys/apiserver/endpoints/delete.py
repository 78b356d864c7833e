"""DELETE of one object and of collections."""

from __future__ import annotations

from typing import Any, Final

from tiphys.api.schemas import schema_by_name
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.body import decode_protobuf, media_type_of, syntax_problem, wrong_kind
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.encoding import value_response
from tiphys.apiserver.endpoints.forms import form_for, list_metadata
from tiphys.apiserver.endpoints.list_options import ListOptions, parse_int
from tiphys.apiserver.endpoints.negotiation import PROTOBUF, YAML
from tiphys.apiserver.endpoints.read import read_page
from tiphys.apiserver.endpoints.request_info import is_true, truth
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.options import DeleteOptions
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.store import Written
from tiphys.machinery.codec import decode_json, decode_yaml
from tiphys.machinery.errors import StatusError, bad_request
from tiphys.machinery.misfit import DecodeError
from tiphys.machinery.normalize import normalize

Object = dict[str, Any]

OPTIONS: Final = "DeleteOptions"
# Kinds that every version called v1 has, and that are no options of a deletion.
UNVERSIONED: Final = frozenset(
    (
        *("APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"),
        *("CreateOptions", "GetOptions", "PatchOptions", "UpdateOptions"),
    )
)
UNREADABLE: Final = "couldn't get version/kind; json parse error"
# How a value of the wrong type is spoken of.
POLICY_TYPE: Final = (
    "DeleteOptions.propagationPolicy of type string",
    "DeleteOptions.propagationPolicy of type v1.DeletionPropagation",
)
OPTIONS_SCHEME: Final = "pkg/apis/meta/internalversion/scheme/register.go:27"
JOBS_WARNING: Final = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)


def delete_options(api: ApiRequest) -> DeleteOptions:
    """DeleteOptions from the body, or from the query when there is no body. StatusError (400, 422)."""
    body = api.request.body
    raw = _from_body(api, body) if body else _from_query(api)
    return DeleteOptions.parse(raw)


def _from_body(api: ApiRequest, body: bytes) -> Object:
    media = media_type_of(api.request.headers.get("content-type", ""))
    try:
        if media == PROTOBUF:
            value: Any = decode_protobuf(body)
        else:
            value = decode_yaml(body).value if media == YAML else decode_json(body)
    except (ValueError, KeyError) as error:
        raise bad_request(syntax_problem(str(error), media)) from None
    if value is None:
        value = {}
    problem = wrong_kind(value)
    if problem:
        raise bad_request(f"{UNREADABLE}: {problem}")
    kind, api_version = value.get("kind") or OPTIONS, value.get("apiVersion") or "v1"
    if kind != OPTIONS:
        if api_version == "v1" and kind in UNVERSIONED:
            raise bad_request(f"converting (v1.{kind}) to (v1.{OPTIONS}): unknown conversion")
        raise bad_request(f'no kind "{kind}" is registered for version "{api_version}" in scheme "{OPTIONS_SCHEME}"')
    try:
        return normalize(value, schema_by_name("meta.v1.DeleteOptions"))
    except DecodeError as error:
        raise bad_request(str(error).replace(*POLICY_TYPE)) from None


def _from_query(api: ApiRequest) -> Object:
    """The same in the query, where preconditions are flat."""
    raw: Object = {}
    if "gracePeriodSeconds" in api.query:
        raw["gracePeriodSeconds"] = parse_int(api.parameter("gracePeriodSeconds"))
    if "propagationPolicy" in api.query:
        raw["propagationPolicy"] = api.parameter("propagationPolicy")
    if "orphanDependents" in api.query:
        raw["orphanDependents"] = truth(api.parameter("orphanDependents"))
    if "dryRun" in api.query:
        raw["dryRun"] = api.query["dryRun"]
    preconditions = {name: api.parameter(name) for name in ("uid", "resourceVersion") if api.parameter(name)}
    if preconditions:
        raw["preconditions"] = preconditions
    return raw


async def delete_object(api: ApiRequest, served: ServedResource) -> Response:
    """Answer a DELETE of one object: the object while it is only marked, else a Status or the object as it last was."""
    options = delete_options(api)
    _warn(api, served, options)
    ctx = api.context()
    ctx.dry_run = options.dry_run or ctx.dry_run
    admission = RequestAdmission(api, served, Operation.DELETE, {"kind": "DeleteOptions", **options.raw})
    written = await served.store.delete(ctx, options, admission)
    gone_slowly = not written.deleted and options.orphan_dependents is False
    return deleted_response(api, served, written, 202 if gone_slowly else 200)


def deleted_response(api: ApiRequest, served: ServedResource, written: Written, code: int = 200) -> Response:
    """The answer to a DELETE."""
    if written.answer_with_object or served.strategy.delete_returns_object:
        form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
        return Response(code, form.object(written.entry), content_type=form.content_type)
    resource = served.resource
    details: Object = {"name": written.entry.name}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    details["uid"] = written.entry.parse()["metadata"]["uid"]
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
    return value_response(code, status, api.wanted)


def _warn(api: ApiRequest, served: ServedResource, options: DeleteOptions) -> None:
    """Jobs keep their pods unless told otherwise: a trap worth a warning."""
    undecided = options.propagation_policy is None and options.orphan_dependents is None
    if undecided and served.group_resource == ("batch", "jobs"):
        api.warnings.append(JOBS_WARNING)


async def delete_collection(api: ApiRequest, served: ServedResource) -> Response:
    """Answer a DELETE of a collection: every object the selectors match, listed as it was before."""
    options = ListOptions.parse(api.query, watch=is_true(api.query, "watch"))
    deletion = delete_options(api)
    wanted = options.filter(served, api.info.namespace)
    _warn(api, served, deletion)
    page = await read_page(served, api.services.cache, options, wanted)
    for entry in list(page.entries):
        ctx = api.context(name=entry.name)
        ctx.namespace = entry.namespace
        ctx.dry_run = deletion.dry_run or ctx.dry_run
        admission = RequestAdmission(api, served, Operation.DELETE, {"kind": "DeleteOptions", **deletion.raw})
        try:
            await served.store.delete(ctx, deletion, admission)
        except StatusError as error:
            if error.code != 404:
                raise
    form = form_for(served, api.wanted, api.parameter("includeObject"), api.services.now)
    metadata = list_metadata(page.revision, page.continue_token, page.remaining)
    return Response(200, form.list(page.entries, metadata), content_type=form.content_type)
