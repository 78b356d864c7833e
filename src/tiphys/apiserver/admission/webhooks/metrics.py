"""What webhooks were asked and said, under upstream's names.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

from typing import Final

from tiphys.base.metrics import REGISTRY

MUTATING: Final = "admit"
VALIDATING: Final = "validating"
# Why a write is refused: the webhook could not be asked, or it said so.
CALLING: Final = "calling_webhook_error"
NO_ERROR: Final = "no_error"
MOST: Final = 600  # codes beyond are counted as this
_SECONDS: Final = REGISTRY.histogram(
    "apiserver_admission_webhook_admission_duration_seconds",
    "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and "
    "API resource and type (validate or admit).",
    ("name", "operation", "rejected", "type"),
    (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10, 25),
)
_REQUESTS: Final = REGISTRY.counter(
    "apiserver_admission_webhook_request_total",
    "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or "
    "admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. "
    "Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    ("code", "name", "operation", "rejected", "type"),
)
_REJECTIONS: Final = REGISTRY.counter(
    "apiserver_admission_webhook_rejection_count",
    "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating "
    "or admit) and operation. Additional labels specify an error type (calling_webhook_error or "
    "apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if "
    "the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or "
    "equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    ("error_type", "name", "operation", "rejection_code", "type"),
)
_FAIL_OPEN: Final = REGISTRY.counter(
    "apiserver_admission_webhook_fail_open_count",
    "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating "
    "or admit).",
    ("name", "type"),
)


def asked(name: str, operation: str, kind: str, seconds: float, *, code: int = 200, error: str = "") -> None:
    """A webhook was asked; `error` says why the write is refused, "" that it is not."""
    rejected = "true" if error else "false"
    shown = str(min(code, MOST))
    _SECONDS.labels(name, operation, rejected, kind).observe(seconds)
    _REQUESTS.labels(shown, name, operation, rejected, kind).inc()
    if error:
        _REJECTIONS.labels(error, name, operation, shown, kind).inc()


def failed_open(name: str, kind: str) -> None:
    """A webhook's failure is ignored."""
    _FAIL_OPEN.labels(name, kind).inc()
