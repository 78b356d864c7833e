"""Failures as CRI clients know them: a gRPC code and a text.

The kubelet decides by code (NOT_FOUND, DEADLINE_EXCEEDED, ALREADY_EXISTS) and shows the text in events.
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class RuntimeFault(Exception):
    """Base of what the runtime answers with; anything else that is raised becomes UNKNOWN with its text."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN


class NotFound(RuntimeFault):
    """The sandbox, container or image named by the request does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(RuntimeFault):
    """Another sandbox or container has this name and attempt."""

    code = grpc.StatusCode.ALREADY_EXISTS


class InvalidArgument(RuntimeFault):
    """The request cannot be understood."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class FailedPrecondition(RuntimeFault):
    """The object is not in a state that allows the call."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class DeadlineExceeded(RuntimeFault):
    """The time the request gave has passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(RuntimeFault):
    """Something outside of this runtime (a registry) cannot be reached now."""

    code = grpc.StatusCode.UNAVAILABLE


class Unreachable(Unavailable):
    """No registry answered at all: its name is unknown, or nothing listens where it should be."""


class PermissionDenied(RuntimeFault):
    """A registry refused the credentials."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unimplemented(RuntimeFault):
    """This runtime does not offer the call."""

    code = grpc.StatusCode.UNIMPLEMENTED
