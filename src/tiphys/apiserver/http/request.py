"""One HTTP request, read completely: request line, headers and body. Query and cookies are parsed when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qsl, unquote

from tiphys.apiserver.authn.interface import UserInfo
from tiphys.machinery.errors import bad_request

if TYPE_CHECKING:
    from tiphys.apiserver.audit.record import Record

ANONYMOUS_USER: Final = UserInfo("system:anonymous", groups=("system:unauthenticated",))


class Place(Protocol):
    """What flow control keeps for a request that is being served."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Headers its answer gets."""

    def leave(self) -> None:
        """The request was served (a watch: its initial part); calling it again does nothing."""


class Request:
    """A request as the endpoints see it. `user` and `audit_id` are filled in by the handler chain."""

    __slots__ = (
        "_query",
        "audit",
        "audit_id",
        "body",
        "headers",
        "keep_alive",
        "method",
        "peer_certificate",
        "place",
        "raw_path",
        "raw_query",
        "remote_address",
        "upgrade",
        "user",
        "warnings",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes = b"",
        *,
        peer_certificate: bytes | None = None,
        remote_address: str = "",
        upgrade: bool = False,
    ) -> None:
        """`target` is the request target as sent ("/api/v1/pods?limit=5"); header names are lower case."""
        self.method = method
        if target.startswith(("http://", "https://")):  # as sent to a proxy: RFC 9112, 3.2.2
            target = f"/{target.partition('://')[2].partition('/')[2]}"
        self.raw_path, _, self.raw_query = target.partition("?")
        self.headers = headers
        self.body = body
        self.peer_certificate = peer_certificate
        self.remote_address = remote_address
        self.upgrade = upgrade
        self.keep_alive = True
        self.user = ANONYMOUS_USER
        self.audit_id = ""
        # What audit records of it; None when it records nothing.
        self.audit: Record | None = None
        # Where flow control has put it; None while it has not, or when it needs no place.
        self.place: Place | None = None
        self.warnings: list[str] = []
        self._query: dict[str, list[str]] | None = None

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        path = self.raw_path
        return unquote(path, errors="strict") if "%" in path else path

    @property
    def query(self) -> Mapping[str, list[str]]:
        """Query parameters: every value of every name, in order. StatusError (400) for bytes that are not UTF-8."""
        if self._query is None:
            self._query = self._parse_query() if self.raw_query else {}
        return self._query

    def _parse_query(self) -> dict[str, list[str]]:
        query: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(self.raw_query, keep_blank_values=True, errors="strict", max_num_fields=1000)
        except ValueError as error:
            raise bad_request(f"invalid query: {error}") from None
        for name, value in pairs:
            query.setdefault(name, []).append(value)
        return query

    def parameter(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default
