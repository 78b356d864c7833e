"""How long admission takes, and what it refuses, under upstream's names.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from typing import Final

from tiphys.base.metrics import REGISTRY, HistogramValue

ADMIT: Final = "admit"
VALIDATE: Final = "validate"
_BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5)
_PLUGINS: Final = REGISTRY.histogram(
    "apiserver_admission_controller_admission_duration_seconds",
    "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation "
    "and API resource and type (validate or admit).",
    ("name", "operation", "rejected", "type"),
    _BUCKETS,
)
_STEPS: Final = REGISTRY.histogram(
    "apiserver_admission_step_admission_duration_seconds",
    "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step "
    "type (validate or admit).",
    ("operation", "rejected", "type"),
    _BUCKETS,
)


def plugin_time(name: str, operation: str, kind: str, *, rejected: bool = False) -> HistogramValue:
    """Where the time of one half of a plug-in is counted; `kind` is ADMIT or VALIDATE."""
    return _PLUGINS.labels(name, operation, "true" if rejected else "false", kind)


def step_time(operation: str, kind: str, *, rejected: bool = False) -> HistogramValue:
    """Where the time of all halves together is counted."""
    return _STEPS.labels(operation, "true" if rejected else "false", kind)
