"""Errors of the API: a metav1.Status with its HTTP code, raised by the server and by clients alike.

Every constructor words its message as the API server does. Source: Kubernetes API conventions,
"Response Status Kind".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tiphys.machinery.field import FieldError
from tiphys.machinery.meta import GroupKind, GroupResource

Status = dict[str, Any]


class StatusError(Exception):
    """An API call that failed; `status` is the metav1.Status as a plain dict."""

    reason_of_class: ClassVar[str] = ""

    def __init__(self, status: Status) -> None:
        super().__init__(status.get("message", ""))
        self.status = status

    @property
    def code(self) -> int:
        """The HTTP status code."""
        code: int = self.status.get("code", 500)
        return code

    @property
    def reason(self) -> str:
        """The machine-readable reason: `NotFound`, `Conflict`, …; may be empty."""
        return str(self.status.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.status.get("message", ""))

    @property
    def details(self) -> Mapping[str, Any]:
        details: Mapping[str, Any] = self.status.get("details") or {}
        return details

    @property
    def retry_after(self) -> int:
        """Seconds after which the server asks to be tried again; 0 when it does not say."""
        return int(self.details.get("retryAfterSeconds", 0))

    @staticmethod
    def from_status(status: Status) -> StatusError:
        """The error of the class that fits the status's reason, or its code where no reason is given."""
        reason = status.get("reason") or _REASON_OF_CODE.get(status.get("code", 0), "")
        return _CLASSES.get(reason, StatusError)(status)


class BadRequestError(StatusError):
    reason_of_class = "BadRequest"


class UnauthorizedError(StatusError):
    reason_of_class = "Unauthorized"


class ForbiddenError(StatusError):
    reason_of_class = "Forbidden"


class NotFoundError(StatusError):
    reason_of_class = "NotFound"


class MethodNotAllowedError(StatusError):
    reason_of_class = "MethodNotAllowed"


class NotAcceptableError(StatusError):
    reason_of_class = "NotAcceptable"


class AlreadyExistsError(StatusError):
    reason_of_class = "AlreadyExists"


class ConflictError(StatusError):
    reason_of_class = "Conflict"


class GoneError(StatusError):
    reason_of_class = "Gone"


class ExpiredError(StatusError):
    """410: the resource version or continue token is too old; list again."""

    reason_of_class = "Expired"


class RequestEntityTooLargeError(StatusError):
    reason_of_class = "RequestEntityTooLarge"


class UnsupportedMediaTypeError(StatusError):
    reason_of_class = "UnsupportedMediaType"


class InvalidError(StatusError):
    reason_of_class = "Invalid"


class TooManyRequestsError(StatusError):
    reason_of_class = "TooManyRequests"


class InternalError(StatusError):
    reason_of_class = "InternalError"


class ServiceUnavailableError(StatusError):
    reason_of_class = "ServiceUnavailable"


class TimeoutStatusError(StatusError):
    """504 by the server's own deadline, or a conflict of time; not `asyncio.TimeoutError`."""

    reason_of_class = "Timeout"


_CLASSES: dict[str, type[StatusError]] = {cls.reason_of_class: cls for cls in StatusError.__subclasses__()}

_REASON_OF_CODE = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Gone",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def status_of(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> Status:
    """A Failure as a plain dict, in the order in which the server writes it; empty details are left out."""
    status: Status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if not reason:
        del status["reason"]
    if details is not None:
        status["details"] = {key: value for key, value in details.items() if value}
    status["code"] = code
    return status


def _error(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> StatusError:
    return StatusError.from_status(status_of(code, reason, message, details))


def _named(resource: GroupResource, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "group": resource.group, "kind": resource.resource, **more}


def not_found(resource: GroupResource, name: str) -> StatusError:
    return _error(404, "NotFound", f'{resource} "{name}" not found', _named(resource, name))


def already_exists(resource: GroupResource, name: str) -> StatusError:
    return _error(409, "AlreadyExists", f'{resource} "{name}" already exists', _named(resource, name))


def generate_name_conflict(resource: GroupResource, name: str, retry_after: int = 1) -> StatusError:
    """The generated name was taken, every time."""
    message = f'{resource} "{name}" already exists, the server was not able to generate a unique name for the object'
    return _error(409, "AlreadyExists", message, _named(resource, name, retryAfterSeconds=retry_after))


def conflict(resource: GroupResource, name: str, message: str) -> StatusError:
    text = f'Operation cannot be fulfilled on {resource} "{name}": {message}'
    return _error(409, "Conflict", text, _named(resource, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def modified(resource: GroupResource, name: str) -> StatusError:
    """The conflict of a stale resourceVersion."""
    return conflict(resource, name, MODIFIED)


def apply_conflict(message: str, causes: Sequence[Mapping[str, str]]) -> StatusError:
    """Fields that other managers own; causes are (reason FieldManagerConflict, message, field)."""
    return _error(409, "Conflict", message, {"causes": [dict(cause) for cause in causes]})


def forbidden(resource: GroupResource, name: str, message: str) -> StatusError:
    if not resource.resource and not resource.group:
        text = f"forbidden: {message}"
    elif not name:
        text = f"{resource} is forbidden: {message}"
    else:
        text = f'{resource} "{name}" is forbidden: {message}'
    return _error(403, "Forbidden", text, _named(resource, name))


def invalid(kind: GroupKind, name: str, errors: Sequence[FieldError]) -> StatusError:
    """422 with one cause an error."""
    details = {
        "name": name,
        "group": kind.group,
        "kind": kind.kind,
        "causes": [{"reason": e.type, "message": e.body, "field": e.field} for e in errors],
    }
    return _error(
        422, "Invalid", f'{kind} "{name}" is invalid' + (f": {aggregate(errors)}" if errors else ":"), details
    )


def aggregate(errors: Sequence[FieldError]) -> str:
    """The errors' texts as the server joins them: one bare, several in brackets, repetitions once."""
    texts = list(dict.fromkeys(str(e) for e in errors))
    if not texts:
        return ""
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def bad_request(message: str) -> StatusError:
    return _error(400, "BadRequest", message)


def unauthorized(message: str = "") -> StatusError:
    return _error(401, "Unauthorized", message or "Unauthorized")


def method_not_supported(resource: GroupResource, verb: str) -> StatusError:
    message = f'{verb} is not supported on resources of kind "{resource}"'
    return _error(405, "MethodNotAllowed", message, {"group": resource.group, "kind": resource.resource})


def not_acceptable(message: str) -> StatusError:
    return _error(406, "NotAcceptable", message)


def gone(message: str) -> StatusError:
    return _error(410, "Gone", message)


def expired(message: str) -> StatusError:
    return _error(410, "Expired", message)


def request_entity_too_large(message: str) -> StatusError:
    return _error(413, "RequestEntityTooLarge", f"Request entity too large: {message}")


def unsupported_media_type(message: str) -> StatusError:
    return _error(415, "UnsupportedMediaType", message, {})


def too_many_requests(message: str, retry_after: int = 0) -> StatusError:
    """429; `retry_after` in seconds, 0 for none."""
    return _error(429, "TooManyRequests", message, {"retryAfterSeconds": retry_after})


def internal_error(error: object) -> StatusError:
    details = {"causes": [{"message": str(error)}]}
    return _error(500, "InternalError", f"Internal error occurred: {error}", details)


def plain_error(message: str) -> StatusError:
    """A 500 without a reason, as upstream answers errors it has no class for."""
    return _error(500, "", message)


def service_unavailable(message: str) -> StatusError:
    return _error(503, "ServiceUnavailable", message)


def timeout(message: str, retry_after: int = 0) -> StatusError:
    """504 with the reason Timeout; `retry_after` in seconds, 0 for none."""
    text = f"Timeout: {message}"
    return _error(504, "Timeout", text, {"retryAfterSeconds": retry_after})


def unprocessable() -> StatusError:
    """422 without a reason given: a JSON patch whose operation fails."""
    return _error(422, "Invalid", "the server rejected our request due to an error in our request", {})


def generic(code: int, verb: str, resource: GroupResource, name: str, server_message: str) -> StatusError:
    """What a client makes of an answer that is not a Status."""
    reason = _REASON_OF_CODE.get(code, "")
    subject = f'"{resource}"' if not name else f'"{resource}" "{name}"'
    message = f"the server responded with the status code {code} but did not return more information"
    details = _named(resource, name, causes=[{"reason": "UnexpectedServerResponse", "message": server_message}])
    return _error(code, reason, f"{message} ({verb.lower()} {subject.strip(chr(34))})", details)
