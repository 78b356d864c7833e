"""Counts and times the requests to the kubelet: `kubelet_http_*`.

https://kubernetes.io/docs/reference/instrumentation/metrics/. A path is the first part of the request's (of
measurements the first two); what the kubelet does not serve is one "other", so that nobody can make series without end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.server.http import Request

_LABELS: Final = ("long_running", "method", "path", "server_type")
TOTAL: Final = REGISTRY.counter(
    "kubelet_http_requests_total", "[ALPHA] Number of the http requests received since the server started", _LABELS
)
INFLIGHT: Final = REGISTRY.gauge(
    "kubelet_http_inflight_requests", "[ALPHA] Number of the inflight http requests", _LABELS
)
DURATION: Final = REGISTRY.histogram(
    "kubelet_http_requests_duration_seconds", "[ALPHA] Duration in seconds to serve http requests", _LABELS
)

OTHER: Final = "other"
MEASUREMENTS: Final = ("cadvisor", "probes", "resource")  # below /metrics
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"})
_LONG_RUNNING: Final = frozenset({"exec", "attach", "portForward", "debug"})


class RequestMetrics:
    """Watches the requests to the authenticated port; `served`: the first parts of the paths it has."""

    def __init__(self, served: Iterable[str]) -> None:
        self._paths = {*served, *(f"metrics/{name}" for name in MEASUREMENTS)}

    @contextmanager
    def observe(self, request: Request) -> Iterator[None]:
        """Count a request and time it until its answer, stream or connection has ended."""
        labels = self.labels(request)
        TOTAL.labels(*labels).inc()
        inflight, began = INFLIGHT.labels(*labels), time.perf_counter()
        inflight.inc()
        try:
            yield
        finally:
            inflight.dec()
            DURATION.labels(*labels).observe(time.perf_counter() - began)

    def labels(self, request: Request) -> tuple[str, str, str, str]:
        """What the request is counted as."""
        first, _, rest = request.path.strip("/").partition("/")
        path = f"{first}/{rest.partition('/')[0]}" if first == "metrics" and rest else first
        return (
            "true" if path in _LONG_RUNNING else "false",
            request.method if request.method in _METHODS else OTHER,
            path if path in self._paths else OTHER,
            "readwrite",
        )
