"""ConversionReview: the question to a conversion webhook, and what its answer must be.

Objects go out in one request and come back in the same order, in the version asked for. Of metadata a webhook may
change labels and annotations; another name, namespace or uid fails the conversion, changes of the rest are dropped.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#webhook-conversion
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from tiphys.apiserver.admission.webhooks.interface import CallError
from tiphys.apiserver.registry.validation.meta import validate_annotations, validate_labels
from tiphys.machinery import field
from tiphys.machinery.errors import StatusError, status_of

Object = dict[str, Any]

GROUP: Final = "apiextensions.k8s.io"
SUPPORTED: Final = ("v1", "v1beta1")
TIMEOUT: Final = 30.0  # seconds; a conversion webhook cannot say another
_IDENTITY: Final = (("name", "name"), ("namespace", "namespace"), ("uid", "UID"))


class Caller(Protocol):
    """Sends a request to a webhook."""

    async def call(self, config: Mapping[str, Any], body: bytes, timeout: float) -> bytes:
        """POST `body` to the webhook of a `clientConfig`; its answer. Raises CallError."""


class ConversionWebhook:
    """The webhook of one definition: `spec.conversion.webhook`."""

    def __init__(self, config: Mapping[str, Any], caller: Caller) -> None:
        self._client = config.get("clientConfig") or {}
        self._version = next((one for one in config.get("conversionReviewVersions") or () if one in SUPPORTED), "")
        self._caller = caller

    async def convert(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        """Objects in another version, in their order; those that are in it stay. StatusError (500) when it fails."""
        asked = [obj for obj in objects if obj.get("apiVersion") != api_version]
        if not asked:
            return list(objects)
        about = _gvk(asked[0])
        try:
            answered = await self._ask(asked, api_version)
        except CallError as error:
            why = str(error).removeprefix("failed to call webhook: ")
            raise _failed(f"conversion webhook for {about} failed: {why}") from None
        if len(answered) != len(asked):
            counts = f"returned {len(answered)} objects, expected {len(asked)}"
            raise _failed(f"conversion webhook for {about} {counts}")
        for index, (before, after) in enumerate(zip(asked, answered, strict=True)):
            if problem := _version_problem(before, after, api_version):
                raise _failed(f"conversion webhook for {about} returned invalid object at index {index}: {problem}")
        done = iter([_with_metadata(before, after) for before, after in zip(asked, answered, strict=True)])
        return [obj if obj.get("apiVersion") == api_version else next(done) for obj in objects]

    async def _ask(self, objects: Sequence[Object], api_version: str) -> list[Any]:
        if not self._version:
            raise CallError("webhook does not accept known ConversionReview versions (v1, v1beta1)")
        uid, own = str(uuid.uuid4()), f"{GROUP}/{self._version}"
        request = {"uid": uid, "desiredAPIVersion": api_version, "objects": objects}
        body = orjson.dumps({"kind": "ConversionReview", "apiVersion": own, "request": request})
        return read_answer(await self._caller.call(self._client, body, TIMEOUT), uid, own)


def read_answer(data: bytes, uid: str, api_version: str) -> list[Any]:
    """The objects of a ConversionReview's answer. Raises CallError for one that does not fit the question."""
    try:
        review = orjson.loads(data)
    except ValueError as error:
        raise CallError(f"couldn't get version/kind; json parse error: {error}") from None
    review = review if isinstance(review, dict) else {}
    kind, found = review.get("kind", ""), review.get("apiVersion", "")
    if kind != "ConversionReview":
        raise CallError(f'no kind "{kind}" is registered for version "{found}"')
    if found != api_version:
        versions = [one.rpartition("/")[2] for one in (found, api_version)]
        raise CallError(
            f"converting ({versions[0]}.ConversionReview) to ({versions[1]}.ConversionReview): unknown conversion"
        )
    response = review.get("response")
    if not isinstance(response, dict):
        raise CallError("no response provided")
    if api_version.endswith("/v1") and response.get("uid") != uid:
        raise CallError(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    result = response.get("result") or {}
    if result.get("status") != "Success":
        status = result.get("status") or ""
        raise CallError(result.get("message") or f"response.result.status was '{status}', not 'Success'")
    objects = response.get("convertedObjects")
    return [_checked(one) for one in objects] if isinstance(objects, list) else []


def _checked(value: Any) -> Object:
    """What came back as an object. StatusError (500) for what is none."""
    if not isinstance(value, dict):
        shown = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}.get(type(value), "null")
        raise _failed(f"json: cannot unmarshal {shown} into Go value of type map[string]interface {{}}")
    if not value.get("kind") or not isinstance(value["kind"], str):
        raise _failed(f"Object 'Kind' is missing in '{orjson.dumps(value).decode()}'")
    return value


def _version_problem(before: Object, after: Object, api_version: str) -> str:
    found, kind = after.get("apiVersion") or "", after["kind"]
    if found != api_version:
        return f"invalid groupVersion (expected {api_version}, received {found})"
    if kind != before["kind"]:
        return f"invalid kind (expected {before['kind']}, received {kind})"
    return ""


def _with_metadata(before: Object, after: Object) -> Object:
    """A converted object with the metadata a webhook may not change. StatusError (500)."""
    about = _gvk(before)
    given = after.get("metadata")
    given = given if isinstance(given, dict) else {}
    for name, shown in _IDENTITY:
        old, new = before["metadata"].get(name) or "", given.get(name) or ""
        if old != new:
            raise _failed(
                f"conversion webhook for {about} returned invalid object: must have the same {shown}: {old} != {new}"
            )
    metadata = dict(before["metadata"])
    for name in ("labels", "annotations"):
        values = given.get(name)
        if problem := _text_problem(name, values):
            raise _failed(f"conversion webhook for {about} returned invalid metadata: {problem}")
        metadata.pop(name, None)
        if values:
            metadata[name] = values
    return {**after, "metadata": metadata}


def _text_problem(name: str, values: Any) -> str:
    """Labels and annotations are maps of texts, with the rules they have everywhere."""
    path = field.Path("metadata").child(name)
    if values is None:
        return ""
    if not isinstance(values, dict):
        return f"{path} must be a map, but is {_go_name(values)} in converted object"
    for key, value in values.items():
        if not isinstance(value, str):
            return f"{path.key(key)} must be a string, but is {_go_name(value)} in converted object"
    if name == "labels":
        problems = validate_labels(values, path)
    else:
        problems = validate_annotations(values, field.Path("metadata").child("annotation"))
    texts = [str(problem) for problem in problems]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""


def _go_name(value: Any) -> str:
    match value:
        case None:
            return "<nil>"
        case bool():
            return "bool"
        case int():
            return "int64"
        case float():
            return "float64"
        case str():
            return "string"
        case list():
            return "[]interface {}"
    return "map[string]interface {}"


def _gvk(obj: Mapping[str, Any]) -> str:
    return f"{obj.get('apiVersion', '')}, Kind={obj.get('kind', '')}"


def _failed(message: str) -> StatusError:
    return StatusError(status_of(500, "", message))
