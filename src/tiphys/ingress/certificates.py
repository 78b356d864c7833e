"""Certificates for TLS: out of Secrets of type kubernetes.io/tls, and one of our own for whoever has none."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tiphys.api.core.v1 import Secret
from tiphys.ingress.model import Certificate

CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY: Final = "tls.key"
FAKE_NAME: Final = "Kubernetes Ingress Controller Fake Certificate"
FAKE_FOR: Final = datetime.timedelta(days=3650)


class CertificateError(ValueError):
    """A Secret that TLS cannot be made with."""


def certificate_of(secret: Secret, hosts: tuple[str, ...] = ()) -> Certificate:
    """The chain and key of a Secret. Raises CertificateError when they are missing, broken or of different pairs."""
    chain, key = (bytes(secret.data.get(name, b"")) for name in (CERTIFICATE_KEY, PRIVATE_KEY))
    for name, data in ((CERTIFICATE_KEY, chain), (PRIVATE_KEY, key)):
        if not data:
            raise CertificateError(f"it has no {name}")
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"it is not a certificate with its key: {error}") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise CertificateError("its key is not that of its certificate")
    name = f"{secret.metadata.namespace}_{secret.metadata.name}"
    return Certificate(name, chain.rstrip() + b"\n" + key.rstrip() + b"\n", hosts)


def own_certificate(path: Path) -> Certificate:
    """The one for requests without a certificate of their own: made once and kept in a file."""
    try:
        return Certificate("default", path.read_bytes())
    except FileNotFoundError:
        pass
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FAKE_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + FAKE_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("ingress.local")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
    temporary.replace(path)
    return Certificate("default", pem)
