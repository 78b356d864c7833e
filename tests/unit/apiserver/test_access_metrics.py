"""Metrics of authentication and authorization, by their names."""

from __future__ import annotations

from tiphys.apiserver.access_metrics import authenticated, judged, refused, token_checked, webhook_asked
from tiphys.base.metrics import REGISTRY


def value(line: str) -> float:
    found = [one for one in REGISTRY.expose().decode().splitlines() if one.startswith(f"{line} ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_counts() -> None:
    issuer = "sha256:100680ad546ce6a577f42f52df33b4cfdca756859e664b8d7de329b150d09ce9"
    names = (
        'authentication_attempts{result="success"}',
        'authentication_attempts{result="error"}',
        'authenticated_user_requests{username="email_id"}',
        'authentication_duration_seconds_count{result="success"}',
        'authorization_attempts_total{result="no-opinion"}',
        'apiserver_authorization_webhook_evaluations_total{name="w",result="timeout"}',
        'apiserver_authorization_webhook_evaluations_fail_open_total{name="w",result="timeout"}',
        f'apiserver_authentication_jwt_authenticator_latency_seconds_count{{result="failure",jwt_issuer_hash="{issuer}"}}',
    )
    before = [value(name) for name in names]
    authenticated("kim@example.com", 0.1)
    refused(0.1)
    judged("no-opinion", 0.1)
    webhook_asked("w", "timeout", 0.1, fails_open=True)
    token_checked("https://example.com", "failure", 0.1)
    assert [value(name) - then for name, then in zip(names, before, strict=True)] == [1.0] * len(names)
