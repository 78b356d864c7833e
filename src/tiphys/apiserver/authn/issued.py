"""Which authority a client's certificate comes from: TLS knows only that it was one of those it trusts."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tiphys.apiserver.configfile import ConfigError


class Issuers:
    """The authorities of one file. Answers are remembered: connections are few and live long."""

    def __init__(self, authorities: list[x509.Certificate]) -> None:
        self._authorities = authorities
        self._judged: dict[bytes, bool] = {}

    @classmethod
    def from_file(cls, path: Path) -> Issuers:
        """Raises ConfigError when the file cannot be read."""
        try:
            return cls(x509.load_pem_x509_certificates(path.read_bytes()))
        except OSError:
            raise ConfigError(f"unable to load client CA file {path}: open {path}: no such file or directory") from None
        except ValueError as error:
            raise ConfigError(f"unable to load client CA file {path}: {error}") from None

    def replace(self, data: bytes) -> None:
        """Other authorities, of a PEM file's content. ValueError when it has none."""
        self._authorities = x509.load_pem_x509_certificates(data)
        self._judged.clear()

    def issued(self, certificate: bytes) -> bool:
        """Whether one of them signed a certificate (DER) that TLS has verified otherwise."""
        known = self._judged.get(certificate)
        if known is None:
            if len(self._judged) > 4096:
                self._judged.clear()
            found = x509.load_der_x509_certificate(certificate)
            known = self._judged[certificate] = any(_issued_by(found, one) for one in self._authorities)
        return known


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
