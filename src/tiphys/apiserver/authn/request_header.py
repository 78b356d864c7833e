"""A proxy in front says who is asking, in headers; it is believed by its client certificate.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#authenticating-proxy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from cryptography import x509
from cryptography.x509.oid import NameOID

from tiphys.apiserver.authn.interface import Credentials, UserInfo
from tiphys.apiserver.authn.issued import Issuers


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderNames:
    """The headers, in lower case; the first of a list that is there counts."""

    username: Sequence[str] = ("x-remote-user",)
    uid: Sequence[str] = ()
    groups: Sequence[str] = ("x-remote-group",)
    extra_prefixes: Sequence[str] = ("x-remote-extra-",)


class RequestHeaders:
    """Implements `Authenticator`."""

    def __init__(self, issuers: Issuers, allowed: Sequence[str], names: HeaderNames) -> None:
        """`allowed`: common names of proxies that are believed; none are any."""
        self._issuers = issuers
        self._allowed = frozenset(allowed)
        self._names = names

    async def authenticate(self, request: Credentials) -> UserInfo | None:
        """The user the headers name; None without them, or from anybody but a proxy."""
        headers, names = request.headers, self._names
        name = next((found for header in names.username if (found := headers.get(header))), "")
        if not name or request.peer_certificate is None or not self._trusted(request.peer_certificate):
            return None
        uid = next((found for header in names.uid if (found := headers.get(header))), "")
        groups = [one.strip() for header in names.groups for one in headers.get(header, "").split(",") if one.strip()]
        extra = {
            unquote(header.removeprefix(prefix)): tuple(part.strip() for part in value.split(","))
            for prefix in names.extra_prefixes
            for header, value in headers.items()
            if header.startswith(prefix)
        }
        return UserInfo(name, uid, tuple(groups), extra)

    def _trusted(self, certificate: bytes) -> bool:
        if not self._issuers.issued(certificate):
            return False
        if not self._allowed:
            return True
        found = x509.load_der_x509_certificate(certificate)
        names = (str(one.value) for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
        return not self._allowed.isdisjoint(names)
