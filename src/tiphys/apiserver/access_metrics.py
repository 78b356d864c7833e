"""Metrics of who came in and what was judged, under upstream's names.

https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

import hashlib
from typing import Final

from tiphys.base.metrics import REGISTRY

_SHORT: Final = tuple(0.001 * 2**power for power in range(15))
_ATTEMPTS: Final = REGISTRY.counter("authentication_attempts", "Counter of authenticated attempts.", ("result",))
_AUTHENTICATION: Final = REGISTRY.histogram(
    "authentication_duration_seconds", "Authentication duration in seconds broken out by result.", ("result",), _SHORT
)
_USERS: Final = REGISTRY.counter(
    "authenticated_user_requests", "Counter of authenticated requests broken out by username.", ("username",)
)
_DECISIONS: Final = REGISTRY.counter(
    "authorization_attempts_total",
    "Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or "
    "'error'.",
    ("result",),
)
_AUTHORIZATION: Final = REGISTRY.histogram(
    "authorization_duration_seconds", "Authorization duration in seconds broken out by result.", ("result",), _SHORT
)
_WEBHOOK: Final = REGISTRY.counter(
    "apiserver_authorization_webhook_evaluations_total", "Round-trips to authorization webhooks.", ("name", "result")
)
_WEBHOOK_SECONDS: Final = REGISTRY.histogram(
    "apiserver_authorization_webhook_duration_seconds", "Request latency in seconds.", ("name", "result")
)
_FAIL_OPEN: Final = REGISTRY.counter(
    "apiserver_authorization_webhook_evaluations_fail_open_total",
    "NoOpinion results due to webhook timeout or error.",
    ("name", "result"),
)
_EXCLUDED: Final = REGISTRY.counter(
    "apiserver_authorization_match_condition_exclusions_total",
    "Total number of exclusions when an authorization webhook is skipped because match conditions exclude it.",
    ("type", "name"),
)
_CONDITION_ERRORS: Final = REGISTRY.counter(
    "apiserver_authorization_match_condition_evaluation_errors_total",
    "Total number of errors when an authorization webhook encounters a match condition error split by authorizer type "
    "and name.",
    ("type", "name"),
)
_JWT: Final = REGISTRY.histogram(
    "apiserver_authentication_jwt_authenticator_latency_seconds",
    "Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache miss "
    "only (i.e. when the token is not found in the cache).",
    ("result", "jwt_issuer_hash"),
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
# Bound once: these are counted with every request.
_SUCCESS: Final = _ATTEMPTS.labels("success"), _AUTHENTICATION.labels("success")
_ERROR: Final = _ATTEMPTS.labels("error"), _AUTHENTICATION.labels("error")
_JUDGED: Final = {
    name: (_DECISIONS.labels(name), _AUTHORIZATION.labels(name)) for name in ("allowed", "denied", "no-opinion")
}
_NAMED: Final = frozenset({"admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"})
_BY_NAME: Final = {name: _USERS.labels(name) for name in (*_NAMED, "email_id", "other")}


def authenticated(name: str, seconds: float) -> None:
    """Somebody has proven who they are, or is anonymous."""
    count, duration = _SUCCESS
    count.inc()
    duration.observe(seconds)
    _BY_NAME[name if name in _NAMED else "email_id" if "@" in name else "other"].inc()


def refused(seconds: float) -> None:
    """Somebody has not."""
    count, duration = _ERROR
    count.inc()
    duration.observe(seconds)


def judged(result: str, seconds: float) -> None:
    """A request was judged: "allowed", "denied" or "no-opinion"."""
    count, duration = _JUDGED[result]
    count.inc()
    duration.observe(seconds)


def webhook_asked(name: str, result: str, seconds: float, *, fails_open: bool) -> None:
    """An authorization webhook was asked: "success", "error" or "timeout"."""
    _WEBHOOK.labels(name, result).inc()
    _WEBHOOK_SECONDS.labels(name, result).observe(seconds)
    if result != "success" and fails_open:
        _FAIL_OPEN.labels(name, result).inc()


def webhook_spared(name: str) -> None:
    """The conditions of a webhook do not match."""
    _EXCLUDED.labels("Webhook", name).inc()


def conditions_failed(name: str) -> None:
    """The conditions of a webhook cannot be told."""
    _CONDITION_ERRORS.labels("Webhook", name).inc()


def token_checked(issuer: str, result: str, seconds: float) -> None:
    """A token of an OpenID Connect issuer was looked at: "success" or "failure"."""
    _JWT.labels(result, f"sha256:{hashlib.sha256(issuer.encode()).hexdigest()}").observe(seconds)
