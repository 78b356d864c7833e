"""Reading bootstrap token secrets. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime
from typing import Final

from tiphys.api.core.v1 import Secret
from tiphys.machinery.time import parse_rfc3339

TYPE: Final = "bootstrap.kubernetes.io/token"
PREFIX: Final = "bootstrap-token-"


def value(secret: Secret, key: str) -> str:
    """One value of a secret as text; "" when it is absent."""
    return bytes(secret.data.get(key, b"")).decode(errors="replace")


def expires(secret: Secret) -> datetime | None:
    """When the token expires; None for never. An unreadable time counts as passed long ago."""
    text = value(secret, "expiration")
    if not text:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        return parse_rfc3339("1970-01-01T00:00:00Z")


def signing_token(secret: Secret, now: datetime) -> tuple[str, str] | None:
    """(id, secret) of a token that may sign; None when it may not."""
    token_id, token_secret = value(secret, "token-id"), value(secret, "token-secret")
    if secret.type != TYPE or secret.metadata.name != PREFIX + token_id or not token_secret:
        return None
    end = expires(secret)
    if value(secret, "usage-bootstrap-signing") != "true" or (end is not None and end <= now):
        return None
    return token_id, token_secret


def detached_signature(content: str, token_id: str, token_secret: str) -> str:
    """A JWS (RFC 7515) over `content` by HMAC with the token's secret, its payload left out."""
    header = _encode(json.dumps({"alg": "HS256", "kid": token_id}, separators=(",", ":")).encode())
    signed = f"{header}.{_encode(content.encode())}".encode()
    return f"{header}..{_encode(hmac.new(token_secret.encode(), signed, hashlib.sha256).digest())}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
