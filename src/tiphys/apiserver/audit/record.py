"""Record: the audit events of one request, one for each stage it reaches.

    RequestReceived ──▶ [ResponseStarted, when the answer is a stream] ──▶ ResponseComplete, or Panic

https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/#audit-k8s-io-v1-Event
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from tiphys.api.protobuf import decode_object_protobuf
from tiphys.apiserver.audit.policy import COMPLETE, PANIC, RECEIVED, STARTED, Choice, Level
from tiphys.apiserver.authn.interface import UserInfo
from tiphys.apiserver.endpoints.request_info import RequestInfo
from tiphys.apiserver.http.request import Request
from tiphys.apiserver.http.response import Answer, Response
from tiphys.machinery.codec import decode_json, decode_yaml
from tiphys.machinery.time import format_micro_time

Object = dict[str, Any]
DECISION: Final = "authorization.k8s.io/decision"
REASON: Final = "authorization.k8s.io/reason"
# Bodies of these verbs are objects.
_WITH_OBJECT: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_STATUS_FIELDS: Final = ("metadata", "status", "message", "reason", "details")


def user_json(user: UserInfo) -> Object:
    """A user as events show it, without empty parts."""
    shown: Object = {}
    for key, value in (("username", user.name), ("uid", user.uid), ("groups", list(user.groups))):
        if value:
            shown[key] = value
    if user.extra:
        shown["extra"] = {key: list(values) for key, values in user.extra.items()}
    return shown


class Record:
    """What is known of one request; `emit` takes each event."""

    def __init__(
        self,
        choice: Choice,
        request: Request,
        info: RequestInfo,
        user: UserInfo | None,
        received: datetime,
        emit: Callable[[Object], None],
    ) -> None:
        self._choice = choice
        self._request = request
        self._info = info
        self._user = user
        self._received = received
        self._emit = emit
        self.impersonated: UserInfo | None = None
        self.constraint = ""  # of the impersonation
        self.authorized = False
        self.annotations: dict[str, str] = {}

    @property
    def level(self) -> Level:
        """How much is recorded."""
        return self._choice.level

    # --- stages -----------------------------------------------------------------------------------
    def received(self) -> None:
        """The request is about to be served."""
        self._stage(RECEIVED, self._received)

    def started(self, answer: Answer, now: datetime) -> None:
        """The head of the answer is being sent; its end is not known."""
        self._stage(STARTED, now, answer)

    def complete(self, answer: Answer, now: datetime) -> None:
        """The answer was sent."""
        self._stage(COMPLETE, now, answer)

    def panic(self, error: Exception, now: datetime) -> None:
        """Serving failed as it never should."""
        status = {"metadata": {}, "status": "Failure", "message": f"APIServer panic'd: {error}"}
        self._stage(PANIC, now, status=status | {"reason": "InternalError", "code": 500})

    # --- the event --------------------------------------------------------------------------------
    def _stage(self, stage: str, now: datetime, answer: Answer | None = None, status: Object | None = None) -> None:
        if stage in self._choice.omitted:
            return
        request, info = self._request, self._info
        request_object = self._request_object() if answer is not None else None
        response_object = _body_object(answer) if isinstance(answer, Response) else None
        event: Object = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": self._choice.level.text,
            "auditID": request.audit_id,
            "stage": stage,
            "requestURI": request.raw_path + (f"?{request.raw_query}" if request.raw_query else ""),
            "verb": info.verb,
            "user": user_json(self._user) if self._user is not None else {},
        }
        if self.impersonated is not None:
            event["impersonatedUser"] = user_json(self.impersonated)
        if self.constraint:
            event["authenticationMetadata"] = {"impersonationConstraint": self.constraint}
        event["sourceIPs"] = _sources(request)
        if agent := request.headers.get("user-agent"):
            event["userAgent"] = agent
        if info.is_resource:
            event["objectRef"] = self._reference(request_object)
        if answer is not None:
            status = _status(answer, response_object)
        if status is not None:
            event["responseStatus"] = status
        self._add_objects(event, request_object, response_object)
        event["requestReceivedTimestamp"] = format_micro_time(self._received)
        event["stageTimestamp"] = format_micro_time(now)
        if self.annotations:
            event["annotations"] = dict(sorted(self.annotations.items()))
        self._emit(event)

    def _add_objects(self, event: Object, request_object: Any, response_object: Any) -> None:
        if not self._info.is_resource:
            return
        choice = self._choice
        shown = (
            ("requestObject", request_object, Level.REQUEST),
            ("responseObject", response_object, Level.REQUEST_RESPONSE),
        )
        for key, found, level in shown:
            if found is not None and choice.level >= level:
                event[key] = without_managed_fields(found) if choice.omit_managed_fields else found

    def _request_object(self) -> Any:
        """What the body says, once the request has been allowed; None when it says nothing or cannot be read."""
        body, info = self._request.body, self._info
        if not body or not self.authorized or not info.is_resource or info.verb not in _WITH_OBJECT:
            return None
        found = _decoded(body, self._request.headers.get("content-type", ""))
        if isinstance(found, dict) and info.verb in ("delete", "deletecollection"):
            return {**found, "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/__internal"}
        return found

    def _reference(self, found: Any) -> Object:
        info = self._info
        metadata = found.get("metadata") if isinstance(found, dict) and info.verb != "patch" else None
        metadata = metadata if isinstance(metadata, dict) else {}
        parts = {
            "resource": info.resource,
            "namespace": info.namespace,
            "name": info.name or metadata.get("name"),
            "uid": metadata.get("uid"),
            "apiGroup": info.api_group,
            "apiVersion": info.api_version,
            "resourceVersion": metadata.get("resourceVersion"),
            "subresource": info.subresource,
        }
        return {key: value for key, value in parts.items() if value}


def _sources(request: Request) -> list[str]:
    """The client's address as each proxy on the way says, and the last one's own."""
    forwarded = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    real = request.headers.get("x-real-ip", "").strip()
    found = [*forwarded, *([real] if real else []), request.remote_address]
    return list(dict.fromkeys(address for address in found if address))


def _decoded(body: bytes, content_type: str) -> Any:
    media = content_type.partition(";")[0].strip()
    try:
        if media == "application/vnd.kubernetes.protobuf":
            return decode_object_protobuf(body)
        if media.endswith("yaml"):
            return decode_yaml(body).value
        return decode_json(body)
    except (ValueError, KeyError):
        return None  # the answer says what is wrong with it


def _body_object(answer: Response) -> Any:
    if not answer.content_type.startswith("application/") or not answer.length:
        return None
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    found = _decoded(body, answer.content_type)
    return found if isinstance(found, dict) and "kind" in found else None


def _status(answer: Answer, found: Any) -> Object:
    code = getattr(answer, "status", 101)  # an upgrade switches protocols
    status: Object = {"metadata": {}}
    if isinstance(found, Mapping) and found.get("kind") == "Status":
        status |= {key: found[key] for key in _STATUS_FIELDS if found.get(key) is not None}
    return status | {"code": code}


def without_managed_fields(found: Any) -> Any:
    """A copy of an object, or of a list and what is in it, that does not say who wrote which field."""
    if not isinstance(found, dict):
        return found
    copy = dict(found)
    metadata = copy.get("metadata")
    if isinstance(metadata, dict) and "managedFields" in metadata:
        copy["metadata"] = {key: value for key, value in metadata.items() if key != "managedFields"}
    if isinstance(copy.get("items"), list):
        copy["items"] = [without_managed_fields(one) for one in copy["items"]]
    return copy
