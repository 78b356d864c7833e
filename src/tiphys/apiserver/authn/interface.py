"""Who is asking: what an authenticator is given and what it answers.

An authenticator looks at one request and answers with a user, with None ("I know nothing about these credentials",
the next one in the chain is asked), or raises a 401 StatusError ("these credentials are mine, and they are wrong").
See https://kubernetes.io/docs/reference/access-authn-authz/authentication/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

ANONYMOUS: Final = "system:anonymous"
GROUP_ALL_AUTHENTICATED: Final = "system:authenticated"
GROUP_ALL_UNAUTHENTICATED: Final = "system:unauthenticated"
GROUP_MASTERS: Final = "system:masters"


@dataclass(frozen=True, slots=True)
class UserInfo:
    """An identity. `extra` holds the authenticator's additional facts (credential id, node of a bound token, …)."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Credentials(Protocol):
    """The part of a request an authenticator may look at."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header values by lower-case name; repeated headers joined with ", "."""

    @property
    def peer_certificate(self) -> bytes | None:
        """The client's certificate in DER, already verified against the client CA by TLS; None without one."""

    @property
    def path(self) -> str:
        """The path that is asked for."""

    @property
    def remote_address(self) -> str:
        """Address of the peer, without the port."""


class Authenticator(Protocol):
    """Finds out who is asking."""

    async def authenticate(self, request: Credentials) -> UserInfo | None:
        """Return the user, or None when this authenticator has no opinion.

        Raises StatusError (401) when the credentials are of this authenticator's kind but not valid.
        """
