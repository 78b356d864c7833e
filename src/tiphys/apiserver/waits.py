"""Time a request spent waiting for others than this server: webhooks that were asked, its turn in a queue.

What the server itself took is what its service level is measured by (`apiserver_request_sli_duration_seconds`). Kept
in the context of the task that serves the request.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

_WAITED: Final[ContextVar[float]] = ContextVar("waited", default=0.0)  # seconds


def waited(seconds: float) -> None:
    """The request being served has waited so long for somebody."""
    _WAITED.set(_WAITED.get() + seconds)


def take_waited() -> float:
    """Seconds the request has waited; from here on it is another one."""
    seconds = _WAITED.get()
    if seconds:
        _WAITED.set(0.0)
    return seconds
