"""AdmissionReview: the question to a webhook, and its answer.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#request
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from tiphys.api.table import Resource
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.webhooks.interface import CallError, Object, Versions
from tiphys.machinery.codec import decode_json
from tiphys.machinery.errors import StatusError
from tiphys.machinery.misfit import json_type

SUPPORTED: Final = ("v1", "v1beta1")
GROUP: Final = "admission.k8s.io"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a webhook said. `patch` holds the operations of a JSON patch."""

    allowed: bool
    status: Mapping[str, Any]
    patch: Sequence[Any] = ()
    warnings: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)


def question(
    attributes: AdmissionAttributes, shown_as: Resource, versions: Versions, review_versions: Sequence[str]
) -> tuple[str, str, bytes]:
    """(uid, apiVersion, body) of the review of a write, its objects in the version `shown_as`."""
    version = next((one for one in review_versions if one in SUPPORTED), None)
    if version is None:
        raise CallError("webhook does not accept known AdmissionReview versions (v1, v1beta1)")
    uid = str(uuid.uuid4())
    kind, resource = attributes.kind, attributes.resource
    own = (kind.group, kind.kind) == (shown_as.group, shown_as.kind) or not attributes.subresource
    shown_kind = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    if own:
        shown_kind = {"group": shown_as.group, "version": shown_as.version, "kind": shown_as.kind}
    request: Object = {
        "uid": uid,
        "kind": shown_kind,
        "resource": {"group": shown_as.group, "version": shown_as.version, "resource": shown_as.plural},
        "requestKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "requestResource": {"group": resource.group, "version": resource.version, "resource": resource.resource},
    }
    if attributes.subresource:
        request["subResource"] = request["requestSubResource"] = attributes.subresource
    for name, value in (("name", attributes.name), ("namespace", attributes.namespace)):
        if value:
            request[name] = value
    request["operation"] = attributes.operation.value
    request["userInfo"] = user_info(attributes)
    convert = (own and shown_as.version != resource.version) or shown_as.group != resource.group
    for name, obj in (("object", attributes.object), ("oldObject", attributes.old_object)):
        request[name] = versions.convert(obj, shown_as) if convert and obj is not None else obj
    request["dryRun"] = attributes.dry_run
    request["options"] = {"apiVersion": "meta.k8s.io/v1", **attributes.options} if attributes.options else None
    api_version = f"{GROUP}/{version}"
    return uid, api_version, orjson.dumps({"kind": "AdmissionReview", "apiVersion": api_version, "request": request})


def user_info(attributes: AdmissionAttributes) -> Object:
    """The user, without empty parts."""
    user = attributes.user
    shown: Object = {"username": user.name}
    if user.uid:
        shown["uid"] = user.uid
    if user.groups:
        shown["groups"] = list(user.groups)
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra.items()}
    return shown


FAILED: Final = "failed to call webhook: "
INVALID: Final = "received invalid webhook response: "
_HEAD: Final = 'struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }'


def answer(data: bytes, uid: str, api_version: str) -> Answer:
    """Read a webhook's answer. Raises CallError for one that does not fit the question."""
    response = _response(data, api_version)
    strict = api_version.endswith("/v1")
    if response is None:
        raise CallError(f"{INVALID}webhook response was absent")
    if strict and response.get("uid") != uid:
        raise CallError(f'{INVALID}expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    if strict and bool(response.get("patch")) != bool(response.get("patchType")):
        has, lacks = ("patch", "patchType") if response.get("patch") else ("patchType", "patch")
        raise CallError(f"{INVALID}webhook returned response.{has} but not response.{lacks}")
    return Answer(
        allowed=response.get("allowed") is True,
        status=response.get("status") or {},
        patch=_patch(response),
        warnings=response.get("warnings") or (),
        annotations=response.get("auditAnnotations") or {},
    )


def _response(data: bytes, api_version: str) -> Mapping[str, Any] | None:
    """The response in a review, None without one. A review that names no version or kind is of those asked for."""
    try:
        review = decode_json(data)
    except ValueError as error:
        if data.lstrip().startswith((b"{", b"[")):
            raise CallError(f"{FAILED}couldn't get version/kind; json parse error: {error}") from None
        review = "text"  # what is no JSON is taken for YAML, and mostly a text there
    if review is None:
        return None
    if not isinstance(review, dict):
        found = json_type(review)
        problem = f"json: cannot unmarshal {found} into Go value of type {_HEAD}"
        raise CallError(f"{FAILED}couldn't get version/kind; json parse error: {problem}")
    version, kind = review.get("apiVersion") or api_version, review.get("kind") or "AdmissionReview"
    if kind != "AdmissionReview" or version not in {f"{GROUP}/{one}" for one in SUPPORTED}:
        raise CallError(f'{FAILED}no kind "{kind}" is registered for version "{version}" in scheme "{SCHEME}"')
    if version != api_version:
        theirs, ours = version.rpartition("/")[2], api_version.rpartition("/")[2]
        problem = f"converting ({theirs}.AdmissionReview) to ({ours}.AdmissionReview): unknown conversion"
        raise CallError(FAILED + problem)
    response = review.get("response")
    if response is not None:
        _check_types(response, api_version.rpartition("/")[2])
    return response


SCHEME: Final = "k8s.io/apiserver/pkg/util/webhook/client.go:71"


def _check_types(response: Any, version: str) -> None:
    if not isinstance(response, dict):
        place, wanted = "AdmissionReview.response", f"{version}.AdmissionResponse"
        found = json_type(response)
        raise CallError(f"{FAILED}json: cannot unmarshal {found} into Go struct field {place} of type {wanted}")
    kinds: Mapping[str, tuple[type, str]] = {
        "allowed": (bool, "bool"),
        "uid": (str, "types.UID"),
        "warnings": (list, "[]string"),
        "patch": (str, "[]uint8"),
        "patchType": (str, f"{version}.PatchType"),
    }
    for name, (kind, wanted) in kinds.items():
        value = response.get(name)
        if value is not None and not isinstance(value, kind):
            place = f"struct field AdmissionResponse.response.{name}"
            raise CallError(f"{FAILED}json: cannot unmarshal {json_type(value)} into Go {place} of type {wanted}")


def _patch(response: Mapping[str, Any]) -> Sequence[Any]:
    encoded = response.get("patch")
    if not encoded:
        return ()
    try:
        text = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        at = next((i for i, one in enumerate(encoded) if not (one.isalnum() or one in "+/=")), len(encoded) // 4 * 4)
        raise CallError(f"{FAILED}illegal base64 data at input byte {at}") from None
    undecodable = "received undecodable patch in webhook response: "
    try:
        operations = decode_json(text)
    except ValueError as error:
        raise CallError(f"{undecodable}{error}") from None
    if operations is None:
        return ()
    if not isinstance(operations, list):
        found = json_type(operations)
        raise CallError(f"{undecodable}json: cannot unmarshal {found} into Go value of type jsonpatch.Patch")
    if operations and response.get("patchType") not in ("JSONPatch", None, ""):
        raise CallError(f'unsupported patch type "{response["patchType"]}"')
    return operations


def denied(name: str, status: Mapping[str, Any]) -> StatusError:
    """The refusal of a webhook: its own status, with who refused before its message."""
    by = f'admission webhook "{name}" denied the request'
    code = status.get("code") or 0
    text = status.get("message") or status.get("reason")
    refused: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"{by}: {text}" if text else f"{by} without explanation",
    }
    for key in ("reason", "details"):
        if status.get(key):
            refused[key] = status[key]
    refused["code"] = code if code >= 400 else 400
    return StatusError.from_status(refused)
