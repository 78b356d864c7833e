"""PATCH: a change of what is there, by JSON patch, merge patch, strategic merge patch or server-side apply.

The patch is applied to the current version in the version of the request; when somebody else was faster it is applied
again to theirs. https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tiphys.api.schemas import has_schema
from tiphys.apiserver.admission.interface import Operation
from tiphys.apiserver.endpoints.body import (
    IGNORE,
    SCHEME,
    SCHEMES,
    STRICT,
    unknown_format,
    unsupported_body,
    write_options_errors,
)
from tiphys.apiserver.endpoints.context import ApiRequest, RequestAdmission
from tiphys.apiserver.endpoints.managed import apply_fields
from tiphys.apiserver.endpoints.request_info import is_true
from tiphys.apiserver.endpoints.write import (
    check_names,
    dedup_owners,
    prepare_changed,
    written_response,
)
from tiphys.apiserver.http.response import Response
from tiphys.apiserver.registry.on_demand import with_conversions
from tiphys.apiserver.registry.resources import ServedResource
from tiphys.apiserver.registry.strategy import Object, RequestContext
from tiphys.machinery import field
from tiphys.machinery.codec import decode_json, decode_yaml, encode_json, strict_message, strict_problems
from tiphys.machinery.errors import StatusError, bad_request, conflict, invalid, plain_error, status_of
from tiphys.machinery.field import Path
from tiphys.machinery.meta import GroupKind, GroupVersionKind
from tiphys.machinery.misfit import DecodeError, json_type
from tiphys.machinery.normalize import normalize_strictly
from tiphys.machinery.patch.errors import BadPatchError, PatchError, show_map
from tiphys.machinery.patch.json import apply_json_patch, field_problems, operations_problem
from tiphys.machinery.patch.merge import apply_merge_patch
from tiphys.machinery.patch.strategic import apply_strategic_patch
from tiphys.machinery.schema import TypeSchema

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
PATCH_TYPES: Final = frozenset({JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH})
MAX_OPERATIONS: Final = 10_000


async def patch_object(api: ApiRequest, served: ServedResource) -> Response:
    """Answer a PATCH of an object, or of a subresource that takes the whole object."""
    media = patch_type(api, custom=served.schema is not None and served.schema.custom)
    if media == APPLY_PATCH:
        return await _apply(api, served)
    patch = Patch(api, served.resource.gvk, served.schema, media)
    ctx = api.context()
    admission = RequestAdmission(api, served, Operation.UPDATE, {"kind": "PatchOptions"})
    given_version = ""

    async def make(old: Object | None, revision: int) -> Object:
        nonlocal given_version
        assert old is not None
        current = served.from_storage(old)
        patched = patch.apply(current)
        check_names(api, patched, namespaced=served.resource.namespaced, named=True)
        metadata = patched["metadata"]
        # The version read is not one the client insists on.
        if metadata.get("resourceVersion") == str(revision):
            del metadata["resourceVersion"]
        old_copy = served.to_storage(current)
        ctx.emptied = patch.emptied
        return await prepare_changed(api, served, ctx, patched, old_copy, admission)

    written = await served.store.update(ctx, make, admission, patching=True)
    return written_response(api, served, written)


CUSTOM_PATCHES: Final = (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)


def patch_type(api: ApiRequest, *, custom: bool = False) -> str:
    """The kind of patch. StatusError (415) for another, (422) for options that do not fit."""
    media = api.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in PATCH_TYPES:
        raise unknown_format(CUSTOM_PATCHES) if custom else unsupported_body()
    errors = write_options_errors(api.query, "PatchOptions")
    if media == APPLY_PATCH:
        if not api.parameter("fieldManager"):
            errors.append(field.required(Path("fieldManager"), "is required for apply patch"))
    elif "force" in api.query:
        errors.append(field.forbidden(Path("force"), "may not be specified for non-apply patch"))
    if errors:
        raise invalid(GroupKind("meta.k8s.io", "PatchOptions"), "", errors)
    return media


class Patch:
    """A JSON, merge or strategic merge patch, parsed once, when it is first applied."""

    def __init__(self, api: ApiRequest, kind: GroupVersionKind, schema: TypeSchema | None, media: str) -> None:
        self._kind = kind
        self._schema = schema
        self._media = media
        self._mode = api.parameter("fieldValidation") or "Warn"
        self._warnings = api.warnings
        self._reported = False
        self.emptied = False  # see RequestContext
        self._body = api.request.body
        self._operation_problems: list[str] = []
        self._patch: Any = None
        self._parsed = False

    def _parse(self) -> None:
        """Read the patch, once there is something to change. StatusError (400, 413)."""
        try:
            self._patch = decode_json(self._body)
        except ValueError as error:
            raise bad_request(self._undecodable(str(error))) from None
        self._check_shape()
        self._parsed = True

    def _undecodable(self, problem: str) -> str:
        return problem if self._media == STRATEGIC_PATCH else f"error decoding patch: {problem}"

    def _check_shape(self) -> None:
        if self._media == JSON_PATCH:
            self._patch = [] if self._patch is None else self._patch
            if problem := operations_problem(self._patch):
                raise bad_request(self._undecodable(problem))
            if len(self._patch) > MAX_OPERATIONS:
                raise StatusError(
                    status_of(
                        413,
                        "RequestEntityTooLarge",
                        "Request entity too large: The allowed maximum operations in a JSON patch is "
                        f"{MAX_OPERATIONS}, got {len(self._patch)}",
                    )
                )
            if self._mode != IGNORE:
                self._operation_problems = field_problems(self._body)
            return
        if self._patch is None:
            if self._media == MERGE_PATCH:
                raise bad_request("Invalid JSON Patch")
            self._patch = {}
        if not isinstance(self._patch, dict):
            found = json_type(self._patch)
            problem = f"json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            raise bad_request(self._undecodable(problem))

    def apply(self, current: Object) -> Object:
        """The patched object in normal form; `current` is not changed. StatusError when the patch does not fit."""
        if not self._parsed:
            self._parse()
        try:
            if self._media == JSON_PATCH:
                patched = apply_json_patch(current, self._patch)
            elif self._media == MERGE_PATCH:
                patched = apply_merge_patch(current, self._patch)
            elif self._schema is None or self._schema.custom:
                raise unknown_format(CUSTOM_PATCHES)
            else:
                patched = apply_strategic_patch(current, self._patch, self._schema)
        except BadPatchError as error:
            raise bad_request(str(error)) from None
        except PatchError as error:
            if self._media == JSON_PATCH:
                raise _rejected(str(error)) from None
            raise StatusError(status_of(500, "", str(error))) from None
        if not isinstance(patched, dict):
            raise bad_request(
                f"json: cannot unmarshal {json_type(patched)} into Go value of type map[string]interface {{}}"
            )
        return self._normal(patched, current)

    def _normal(self, patched: Object, current: Object) -> Object:
        self._check_kind(patched)
        metadata = patched.get("metadata")
        if isinstance(metadata, dict) and metadata.get("managedFields") == []:
            patched["metadata"] = {**metadata, "managedFields": [{}]}  # it says: forget who owned what
        patched["kind"], patched["apiVersion"] = self._kind.kind, self._kind.api_version
        if self._schema is None:
            return patched
        self.emptied = _emptied(patched.get("spec"), current.get("spec"))
        try:
            normal, doubtful = normalize_strictly(patched, self._schema, current)
            self._check_fields(patched, current, doubtful=doubtful)
            return normal
        except DecodeError as error:
            self._check_fields(patched, current)  # which comes first
            if self._media == STRATEGIC_PATCH:
                problem = field.invalid(Path("patch"), show_map(self._patch), error.converted)
            else:
                problem = field.invalid(Path("patch"), self._text(patched), str(error))
            raise invalid(GroupKind("", ""), "", [problem]) from None

    def _check_kind(self, patched: Object) -> None:
        """A patch of text cannot make another kind of an object; a strategic one knows what it changes."""
        if self._media == STRATEGIC_PATCH or self._schema is None or self._schema.custom:
            return
        kind, version = patched.get("kind") or self._kind.kind, patched.get("apiVersion") or self._kind.api_version
        if (kind, version) == (self._kind.kind, self._kind.api_version):
            return
        group = self._kind.group.partition(".")[0] or "core"
        inner = str(version).rpartition("/")[2]
        problem = f"converting ({inner}.{kind}) to ({group}.{self._kind.kind}): unknown conversion"
        group_name = str(version).rpartition("/")[0]
        if not has_schema(group_name, inner, str(kind)):
            scheme = SCHEMES.get(self._kind.group, SCHEME)
            problem = f'no kind "{kind}" is registered for version "{version}" in scheme "{scheme}"'
        raise invalid(GroupKind("", ""), "", [field.invalid(Path("patch"), self._text(patched), problem)])

    def _text(self, patched: Object) -> str:
        """The patched document as upstream's patch library writes it: what the patch touched has its keys in order."""
        if self._media == MERGE_PATCH:
            ordered = _sorted_along(patched, self._patch)
        else:
            ordered = dict(sorted(patched.items()))
            for operation in self._patch:
                for name in ("from", "path"):
                    ordered = _sorted_path(ordered, str(operation.get(name, "")).split("/")[1:-1])
        return encode_json(ordered).decode()

    def _check_fields(self, patched: Object, current: Object, *, doubtful: bool = True) -> None:
        if self._mode == IGNORE or self._reported or self._schema is None:
            return
        # What the patch left alone is the current version's own.
        touched = {name: value for name, value in patched.items() if value is not current.get(name)}
        if self._media == MERGE_PATCH and doubtful:
            touched = _sorted_along(touched, self._patch)
        problems = strict_problems(touched, self._schema) if doubtful else []
        if self._media == STRATEGIC_PATCH:
            problems.sort()
        if self._media != JSON_PATCH:
            found = strict_problems(self._patch, self._schema, self._body, only_known=True)
            duplicates = [one for one in found if one.startswith("dup")]
            problems = duplicates + problems
        problems = self._operation_problems + problems
        if not problems:
            return
        if self._mode == STRICT:
            shown = show_map(self._patch) if self._media == STRATEGIC_PATCH else self._text(patched)
            error = field.invalid(Path("patch"), shown, strict_message(problems))
            raise invalid(GroupKind("", ""), "", [error])
        self._reported = True
        self._warnings += problems


def _emptied(spec: Any, known: Any) -> bool:
    if spec is known or not isinstance(spec, dict) or not isinstance(known, dict):
        return False
    return any(value == [] and name not in known for name, value in spec.items())


def _sorted_along(value: Any, patch: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(patch, dict):
        return value
    return {key: _sorted_along(value[key], patch.get(key)) for key in sorted(value)}


def _sorted_path(value: Any, path: list[str]) -> Any:
    if isinstance(value, list) and path and path[0].isdigit() and int(path[0]) < len(value):
        at = int(path[0])
        return [*value[:at], _sorted_path(value[at], path[1:]), *value[at + 1 :]]
    if not isinstance(value, dict):
        return value
    ordered = {key: value[key] for key in sorted(value)}
    if path and path[0] in ordered:
        ordered[path[0]] = _sorted_path(ordered[path[0]], path[1:])
    return ordered


def _rejected(message: str) -> StatusError:
    return StatusError(
        status_of(422, "Invalid", "the server rejected our request due to an error in our request", {})
        | {"details": {}, "code": 422}
    )


# --- server-side apply ----------------------------------------------------------------------------


async def _apply(api: ApiRequest, served: ServedResource) -> Response:
    applied, duplicates = decode_applied(api, served.resource.gvk)
    # The configuration itself stays as it was sent: what the URL adds to it is not applied by anybody.
    sent = {"metadata": dict(applied.get("metadata") or {})}
    named = "name" in sent["metadata"]
    check_names(api, sent, namespaced=served.resource.namespaced, named=named)
    applied.setdefault("metadata", {})
    ctx = api.context()
    force = is_true(api.query, "force")
    admission = RequestAdmission(api, served, Operation.UPDATE, {"kind": "PatchOptions"})
    creating = RequestAdmission(api, served, Operation.CREATE, {"kind": "CreateOptions"})

    async def make(old: Object | None, revision: int) -> Object:
        live = None if old is None else served.from_storage(old)
        if live is None and not named:
            check_names(api, sent, namespaced=served.resource.namespaced, named=True)
        merged = await with_conversions(lambda: apply_fields(served, ctx, live, applied, force=force))
        report_duplicates(api, duplicates)
        if served.resource.namespaced:
            merged["metadata"]["namespace"] = api.info.namespace
        merged["metadata"].setdefault("name", api.info.name)
        if old is None:
            _check_created(served, api.info.name, merged["metadata"])
            return await _prepare_applied(api, served, ctx, merged, None, creating)
        version = applied["metadata"].get("resourceVersion")
        if version:
            merged["metadata"]["resourceVersion"] = version
        else:
            merged["metadata"].pop("resourceVersion", None)
        return await _prepare_applied(api, served, ctx, merged, old, admission)

    may_create = not ctx.subresource
    written = await served.store.update(
        ctx, make, admission, patching=True, may_create=may_create, create_admission=creating
    )
    return written_response(api, served, written)


def _check_created(served: ServedResource, name: str, metadata: Object) -> None:
    """Refuse to create the object that the configuration says is there already: 409; a bad resourceVersion is a 500."""
    if uid := metadata.get("uid"):
        told = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise conflict(served.group_resource, name, told)
    version = metadata.pop("resourceVersion", None) or "0"
    if not (version.isascii() and version.isdecimal()):
        raise plain_error(f"strconv.ParseUint: parsing {field.quote(version)}: invalid syntax")


async def _prepare_applied(
    api: ApiRequest,
    served: ServedResource,
    ctx: RequestContext,
    merged: Object,
    old: Object | None,
    admission: RequestAdmission,
) -> Object:
    dedup_owners(merged, api.warnings)
    stored = served.to_storage(merged)
    served.strategy.default(stored)
    await admission.mutate(stored, old)
    return stored


def decode_applied(api: ApiRequest, kind: GroupVersionKind) -> tuple[Object, Sequence[str]]:
    """The applied configuration and the keys that come twice in it. StatusError (400).

    It is YAML (or JSON), and not in normal form, as every field in it counts.
    """
    try:
        document = decode_yaml(api.request.body)
    except ValueError as error:
        raise bad_request(f"error decoding YAML: {error}") from None
    value = {} if document.value is None else document.value
    if not isinstance(value, dict):
        found = f"json: cannot unmarshal {json_type(value)} into Go value of type map[string]interface {{}}"
        problem = f"error unmarshaling JSON: while decoding JSON: {found}"
        raise bad_request(f"error decoding YAML: {problem}")
    given_version, given_kind = value.get("apiVersion") or "", value.get("kind") or ""
    if given_version != kind.api_version or given_kind != kind.kind:
        shown = given_version if "/" in str(given_version) else f"/{given_version}"
        raise bad_request(f"invalid object type: {shown}, Kind={given_kind}")
    metadata = value.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise bad_request("metadata is not an object")
    if metadata and metadata.get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    return value, document.duplicates


def report_duplicates(api: ApiRequest, duplicates: Sequence[str]) -> None:
    """Say, as `fieldValidation` wants it, which keys come twice. What does not fit the type has been said before."""
    mode = api.parameter("fieldValidation") or "Warn"
    if not duplicates or mode == IGNORE:
        return
    if mode == STRICT:
        found = "\n  ".join(duplicates)
        raise bad_request(
            f"error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {found}"
        )
    api.warnings += [one for one in duplicates if one not in api.warnings]
