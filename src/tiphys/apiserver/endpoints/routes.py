"""What is answered to a path, or a method of it, that does not exist: the words of upstream's router."""

from __future__ import annotations

from tiphys.machinery.errors import StatusError, status_of


def no_such_resource() -> StatusError:
    """404 for a resource nobody serves."""
    return _plain(404, "NotFound", "the server could not find the requested resource")


def no_such_method() -> StatusError:
    """405 for a method a path does not have."""
    return _plain(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _plain(code: int, reason: str, message: str) -> StatusError:
    status = status_of(code, reason, message)
    del status["code"]
    return StatusError({**status, "details": {}, "code": code})
