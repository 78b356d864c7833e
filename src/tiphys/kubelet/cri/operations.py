"""Counts and times the calls to the runtime by what they ask for: `kubelet_runtime_operations_*`.

Operations have the names of https://kubernetes.io/docs/reference/instrumentation/metrics/ and of dashboards
(`create_container`, `pull_image`, …).
"""

from __future__ import annotations

from functools import cache
from typing import Final

from tiphys.base.metrics import REGISTRY

_BUCKETS: Final = tuple(0.005 * 2.5**power for power in range(14))
TOTAL: Final = REGISTRY.counter(
    "kubelet_runtime_operations_total",
    "[ALPHA] Cumulative number of runtime operations by operation type.",
    ("operation_type",),
)
ERRORS: Final = REGISTRY.counter(
    "kubelet_runtime_operations_errors_total",
    "[ALPHA] Cumulative number of runtime operation errors by operation type.",
    ("operation_type",),
)
DURATION: Final = REGISTRY.histogram(
    "kubelet_runtime_operations_duration_seconds",
    "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
    ("operation_type",),
    _BUCKETS,
)


class Operation:
    """One kind of call, with its series at hand."""

    __slots__ = ("_duration", "_name", "_total")

    def __init__(self, name: str) -> None:
        self._name = name
        self._total = TOTAL.labels(name)
        self._duration = DURATION.labels(name)

    def ended(self, seconds: float) -> None:
        """A call has ended, well or not."""
        self._total.inc()
        self._duration.observe(seconds)

    def failed(self) -> None:
        """The runtime refused a call or could not answer it."""
        ERRORS.labels(self._name).inc()


@cache
def operation(name: str) -> Operation:
    """The operation of this name; its series begin with its first use."""
    return Operation(name)
