"""The cluster's certificates and keys, laid out as kubeadm lays them out.

    pki/ca.crt ca.key                          signs every client and serving certificate
    pki/front-proxy-ca.crt .key                signs the identity the aggregator shows to extension servers
    pki/sa.key sa.pub                          signs and checks service-account tokens
    pki/apiserver.crt .key                     serving certificate of the API server
    pki/apiserver-kubelet-client.crt .key      the API server's identity towards kubelets
    pki/front-proxy-client.crt .key

Keys are elliptic (P-256): one takes microseconds where an RSA key takes tens of milliseconds. The key of service
accounts is RSA all the same: who checks tokens elsewhere may know no other algorithm than OpenID Connect's RS256.
Everything is made once and kept; a serving certificate is made anew when it lacks a name or
address it should have, or expires within a month.
https://kubernetes.io/docs/setup/best-practices/certificates/
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIME: Final = timedelta(days=3650)
CERT_LIFETIME: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=30)
# Clocks of joining machines may be behind ours.
BACKDATE: Final = timedelta(minutes=5)


class PkiError(Exception):
    """A certificate or key on disk cannot be read or does not fit; names the file."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, in PEM."""

    certificate: bytes
    key: bytes


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, never readable by others even for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_signing_key() -> rsa.RSAPrivateKey:
    """A fresh RSA key of 2048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """The key in the form Go's tools write (SEC 1, "EC PRIVATE KEY"; PKCS #1, "RSA PRIVATE KEY")."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Authority:
    """A certificate authority: its own certificate and the key it signs with."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @property
    def pem(self) -> bytes:
        """The certificate, in PEM: what clients trust."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private_pem(self) -> bytes:
        """The key it signs with, in PEM."""
        return key_pem(self._key)

    @classmethod
    def create(cls, common_name: str, now: datetime | None = None) -> Authority:
        """A new self-signed authority, valid for ten years."""
        key = new_key()
        moment = now or datetime.now(UTC)
        subject = _name(common_name, ())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - BACKDATE)
            .not_valid_after(moment + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    def client(
        self, common_name: str, organizations: Sequence[str] = (), lifetime: timedelta = CERT_LIFETIME
    ) -> KeyPair:
        """A client certificate: the user `common_name`, in the groups `organizations`."""
        key = new_key()
        certificate = self._sign(
            key.public_key(), _name(common_name, organizations), [ExtendedKeyUsageOID.CLIENT_AUTH], (), lifetime
        )
        return KeyPair(certificate, key_pem(key))

    def server(self, common_name: str, names: Iterable[str], organizations: Sequence[str] = ()) -> KeyPair:
        """A serving certificate for DNS names and IP addresses."""
        key = new_key()
        certificate = self._sign(
            key.public_key(), _name(common_name, organizations), [ExtendedKeyUsageOID.SERVER_AUTH], names, CERT_LIFETIME
        )
        return KeyPair(certificate, key_pem(key))

    def _sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        usages: Sequence[x509.ObjectIdentifier],
        names: Iterable[str],
        lifetime: timedelta,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives := general_names(names):
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """Subject alternative names: addresses as addresses, the rest as DNS names; each once, in order."""
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


class Pki:
    """The directory of a cluster's certificates; what is missing is made on first use."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._authority("ca", "kubernetes")
        self.front_proxy_ca = self._authority("front-proxy-ca", "front-proxy-ca")

    @property
    def service_account_key(self) -> Path:
        """The private key that signs service-account tokens; `sa.pub` lies beside it."""
        path = self.directory / "sa.key"
        if not path.exists():
            key = new_signing_key()
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            write_private(self.directory / "sa.pub", public, 0o644)
            write_private(path, key_pem(key))
        return path

    def client(
        self, name: str, common_name: str, organizations: Sequence[str] = (), *, front_proxy: bool = False
    ) -> Path:
        """Make sure `<name>.crt` and `<name>.key` hold a valid client certificate; returns the path without ending."""
        base = self.directory / name
        if not self._usable(base, ()):
            authority = self.front_proxy_ca if front_proxy else self.ca
            self._write(base, authority.client(common_name, organizations))
        return base

    def server(self, name: str, common_name: str, names: Sequence[str], organizations: Sequence[str] = ()) -> Path:
        """Make sure `<name>.crt` and `<name>.key` serve all of `names`; returns the path without ending."""
        base = self.directory / name
        if not self._usable(base, names):
            self._write(base, self.ca.server(common_name, names, organizations))
        return base

    def _authority(self, name: str, common_name: str) -> Authority:
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        if not certificate.exists() and not key.exists():
            made = Authority.create(common_name)
            # The key first: an authority without its certificate is made anew, one without its key is an error.
            write_private(key, made.private_pem)
            write_private(certificate, made.pem, 0o644)
            return made
        if not certificate.exists():
            key.unlink()
            return self._authority(name, common_name)
        return Authority(load_certificate(certificate), load_key(key))

    def _usable(self, base: Path, names: Sequence[str]) -> bool:
        certificate, key = base.with_name(base.name + ".crt"), base.with_name(base.name + ".key")
        if not certificate.exists() or not key.exists():
            return False
        found = load_certificate(certificate)
        if found.not_valid_after_utc - RENEW_BEFORE < datetime.now(UTC):
            return False
        if load_key(key).public_key() != found.public_key():
            return False  # a crash came between the two files
        if not names:
            return True
        try:
            present = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return set(general_names(names)) <= set(present)

    @staticmethod
    def _write(base: Path, pair: KeyPair) -> None:
        write_private(base.with_name(base.name + ".key"), pair.key)
        write_private(base.with_name(base.name + ".crt"), pair.certificate, 0o644)


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; raises PkiError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PkiError(f"{path} is not a readable certificate: {error}") from error


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """An elliptic private key in PEM; raises PkiError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise PkiError(f"{path} is not a readable private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError(f"{path} holds a key that is not elliptic")
    return key
