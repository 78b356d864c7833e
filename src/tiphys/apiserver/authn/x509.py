"""Client certificates: the subject's common name is the user, its organizations are the groups.

TLS has verified the chain against the client CA before the request is read; here only validity in
time is looked at again, as a connection may outlive its certificate.
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tiphys.apiserver.authn.interface import Credentials, UserInfo
from tiphys.apiserver.authn.issued import Issuers
from tiphys.base.clock import Clock
from tiphys.machinery.errors import unauthorized

CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
# Connections are few and long-lived; certificates seen are remembered by their bytes.
_REMEMBERED: Final = 4096


@lru_cache(maxsize=_REMEMBERED)
def _read(certificate: bytes) -> tuple[UserInfo | None, float, float]:
    """The user a DER certificate names (None: none, or not for clients) and its validity in epoch seconds."""
    found = x509.load_der_x509_certificate(certificate)
    start, end = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    try:
        usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = None
    wanted = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    # A certificate that says nothing of its use may be used for everything (RFC 5280, 4.2.1.12).
    if usages is not None and not any(usage in usages for usage in wanted):
        return None, start, end
    names = [str(attribute.value) for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(value.value) for value in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    if not names or not names[0]:
        return None, start, end
    identifier = f"X509SHA256={hashlib.sha256(certificate).hexdigest()}"
    return UserInfo(names[0], groups=groups, extra={CREDENTIAL_ID: (identifier,)}), start, end


class ClientCertificateAuthenticator:
    """Takes the identity out of the certificate the connection was opened with."""

    def __init__(self, clock: Clock, issuers: Issuers | None = None) -> None:
        """`issuers`: whose certificates are clients'; None when TLS trusts nobody else's."""
        self._clock = clock
        self._issuers = issuers

    async def authenticate(self, request: Credentials) -> UserInfo | None:
        """The certificate's user; None without a certificate or with one that names nobody; 401 once expired."""
        certificate = request.peer_certificate
        if certificate is None or (self._issuers is not None and not self._issuers.issued(certificate)):
            return None
        user, start, end = _read(certificate)
        if user is not None and not start <= self._clock.now().timestamp() <= end:
            raise unauthorized()
        return user
