"""Bearer tokens other than service accounts': a static file, and bootstrap tokens of joining nodes."""

from __future__ import annotations

import base64
import csv
import hmac
import io
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from tiphys.apiserver.authn.interface import Credentials, UserInfo
from tiphys.apiserver.configfile import read
from tiphys.base.clock import Clock

BOOTSTRAP_GROUP: Final = "system:bootstrappers"
_BOOTSTRAP_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_EXTRA_GROUP: Final = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


class Lookup(Protocol):
    """Reads one object out of the watch cache."""

    def __call__(self, group: str, resource: str, namespace: str, name: str) -> Mapping[str, Any] | None: ...


class InvalidToken(Exception):
    """The token is of a kind we know, but not valid; the text says why, for TokenReviews and the log only."""


class TokenAuthenticator(Protocol):
    """Finds out whose token this is; the same for requests and for TokenReviews."""

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...]
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        """The user and those of `audiences` the token is for; None when the token is not of this kind.

        An empty `audiences` asks for the API server's own. Raises InvalidToken for a token of this
        kind that is not valid.
        """


def bearer_token(request: Credentials) -> str:
    """The token of the Authorization header or of the WebSocket protocol header browsers use; "" if there is none."""
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for protocol in request.headers.get("sec-websocket-protocol", "").split(","):
        prefix, _, encoded = protocol.strip().partition("base64url.bearer.authorization.k8s.io.")
        if not prefix and encoded:
            try:
                return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
            except ValueError:
                return ""
    return ""


class StaticTokens:
    """Tokens from a CSV file: token, user, uid and optionally groups in quotes. Read once, as upstream does."""

    def __init__(self, users: Mapping[str, UserInfo]) -> None:
        self._users = dict(users)

    @classmethod
    def from_file(cls, path: Path) -> StaticTokens:
        """Raises ValueError naming file and line when a line has fewer than three columns."""
        users: dict[str, UserInfo] = {}
        text = read(path).decode()
        with io.StringIO(text, newline="") as file:
            for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
                if not row or row[0].startswith("#"):
                    continue
                if len(row) < 3:
                    raise ValueError(f"{path}:{number}: token file must have at least 3 columns (token, user, uid)")
                groups = tuple(group.strip() for group in row[3].split(",")) if len(row) > 3 and row[3] else ()
                users[row[0]] = UserInfo(row[1], row[2], groups)
        return cls(users)

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...]
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        user = self._users.get(token)
        return None if user is None else (user, audiences)


class BootstrapTokens:
    """Tokens of the form `abcdef.0123456789abcdef`, kept as Secrets of type bootstrap.kubernetes.io/token.

    https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
    """

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock

    async def authenticate_token(
        self, token: str, audiences: tuple[str, ...]
    ) -> tuple[UserInfo, tuple[str, ...]] | None:
        match = _BOOTSTRAP_TOKEN.fullmatch(token)
        if match is None:
            return None
        identifier, secret = match.groups()
        found = self._lookup("", "secrets", "kube-system", f"bootstrap-token-{identifier}")
        if found is None or found.get("type") != "bootstrap.kubernetes.io/token":
            return None
        if (found.get("metadata") or {}).get("deletionTimestamp"):
            return None
        data = {
            key: base64.b64decode(value).decode(errors="replace") for key, value in (found.get("data") or {}).items()
        }
        if data.get("token-id") != identifier or not hmac.compare_digest(data.get("token-secret", ""), secret):
            return None
        if self._expired(data.get("expiration", "")) or data.get("usage-bootstrap-authentication") != "true":
            return None
        extra = [group.strip() for group in data.get("auth-extra-groups", "").split(",") if group.strip()]
        if not all(_EXTRA_GROUP.fullmatch(group) for group in extra):
            return None
        groups = tuple(sorted({BOOTSTRAP_GROUP, *extra}))
        return UserInfo(f"system:bootstrap:{identifier}", groups=groups), audiences

    def _expired(self, text: str) -> bool:
        if not text:
            return False
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            return True  # an expiry nobody can read has passed
        return moment.tzinfo is None or moment <= self._clock.now()
