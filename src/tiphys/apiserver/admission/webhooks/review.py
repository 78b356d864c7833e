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
from tiphys.machinery.errors import StatusError

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


def answer(data: bytes, uid: str, api_version: str) -> Answer:
    """Read a webhook's answer. Raises CallError for one that does not fit the question."""
    try:
        review = orjson.loads(data)
    except ValueError as error:
        raise CallError(f"couldn't get version/kind; json parse error: {error}") from None
    review = review if isinstance(review, dict) else {}
    if (review.get("kind"), review.get("apiVersion")) != ("AdmissionReview", api_version):
        found = f"{review.get('apiVersion', '')}, Kind={review.get('kind', '')}"
        raise CallError(f"expected webhook response of {api_version}, Kind=AdmissionReview, got {found}")
    response = review.get("response")
    if not isinstance(response, dict):
        raise CallError("webhook response was absent")
    if response.get("uid") != uid and api_version.endswith("/v1"):
        raise CallError(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    return Answer(
        allowed=response.get("allowed") is True,
        status=response.get("status") or {},
        patch=_patch(response),
        warnings=[str(warning) for warning in response.get("warnings") or ()],
        annotations=response.get("auditAnnotations") or {},
    )


def _patch(response: Mapping[str, Any]) -> Sequence[Any]:
    encoded = response.get("patch")
    if not encoded:
        return ()
    if response.get("patchType") != "JSONPatch":
        raise CallError('invalid response.patchType, not "JSONPatch"')
    try:
        operations = orjson.loads(base64.b64decode(encoded, validate=True))
    except (ValueError, binascii.Error) as error:
        raise CallError(f"received undecodable patch: {error}") from None
    if not isinstance(operations, list):
        raise CallError("received a patch that is not a list")
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
