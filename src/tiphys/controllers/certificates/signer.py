"""Signs approved requests with the cluster's CA, within what each signer allows."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from msgspec.structs import replace

from tiphys.api.certificates.v1 import CertificateSigningRequest, CertificateSigningRequestCondition
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.certificates import requests
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

SIGNERS: Final = frozenset({requests.KUBELET_CLIENT, requests.KUBELET_SERVING, requests.CLIENT, requests.LEGACY})
# Clocks differ: a certificate is valid a little before it is made.
BACKDATE: Final = timedelta(minutes=5)

_KEY_USAGES: Final = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "key agreement": "key_agreement",
    "data encipherment": "data_encipherment",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
_EXTENDED: Final = {
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
}


class Authority:
    """A CA certificate with its key. Raises ValueError when the PEM is not that."""

    def __init__(self, certificate: bytes, key: bytes) -> None:
        self._certificate = x509.load_pem_x509_certificate(certificate)
        loaded = serialization.load_pem_private_key(key, password=None)
        if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise ValueError("the cluster signing key must be an RSA or EC key")
        self._key = loaded

    def sign(
        self, request: x509.CertificateSigningRequest, usages: tuple[str, ...], now: datetime, duration: timedelta
    ) -> bytes:
        """The certificate in PEM; it never outlives the CA."""
        end = min(now + duration, self._certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self._certificate.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._certificate.public_key()),  # type: ignore[arg-type]  # RSA or EC, as the key
                critical=False,
            )
        )
        key_usage = _key_usage(usages)
        if key_usage is not None:
            builder = builder.add_extension(key_usage, critical=True)
        extended = [_EXTENDED[usage] for usage in usages if usage in _EXTENDED]
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        names = requests.alternative_names(request)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_usage(usages: tuple[str, ...]) -> x509.KeyUsage | None:
    """None when only extended usages are asked for: OpenSSL calls a certificate invalid whose key usage is empty."""
    wanted = {_KEY_USAGES[usage] for usage in usages if usage in _KEY_USAGES}
    if not wanted:
        return None
    agrees = "key_agreement" in wanted
    return x509.KeyUsage(
        digital_signature="digital_signature" in wanted,
        content_commitment="content_commitment" in wanted,
        key_encipherment="key_encipherment" in wanted,
        data_encipherment="data_encipherment" in wanted,
        key_agreement=agrees,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=agrees and "encipher_only" in wanted,
        decipher_only=agrees and "decipher_only" in wanted,
    )


class CSRSigningController(Controller[ObjectName]):
    """The controller `certificatesigningrequest-signing-controller`; without a CA it does nothing."""

    name = "csrsigning"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        options = context.options
        self._duration = options.cluster_signing_duration
        given = options.cluster_signing_cert and options.cluster_signing_key
        self._authority = Authority(options.cluster_signing_cert, options.cluster_signing_key) if given else None
        self._requests = context.informers.of(CertificateSigningRequest)
        super().__init__(context.clock, (self._requests,))
        enqueue(self.queue, self._requests)

    async def sync(self, key: ObjectName) -> Result:
        """Sign one request that was approved."""
        csr = self._requests.lister.get(key)
        if self._authority is None or csr is None or csr.spec.signer_name not in SIGNERS:
            return DONE
        failed = any(condition.type == "Failed" for condition in csr.status.conditions)
        if csr.status.certificate or failed or not requests.is_approved(csr):
            return DONE
        try:
            request = requests.parse(csr)
            refusal = requests.refusal(csr, request)
        except ValueError as error:
            refusal = f"unable to parse csr: {error}"
        with suppress(NotFoundError):
            if refusal:
                if csr.spec.signer_name != requests.LEGACY:
                    await self._fail(csr, refusal)
                return DONE
            certificate = self._authority.sign(request, csr.spec.usages, self.clock.now(), self._lifetime(csr))
            await self._client.update_status(replace(csr, status=replace(csr.status, certificate=certificate)))
        return DONE

    def _lifetime(self, csr: CertificateSigningRequest) -> timedelta:
        """What is asked for, from ten minutes to the signer's longest."""
        if csr.spec.expiration_seconds is None:
            return self._duration
        asked = timedelta(seconds=csr.spec.expiration_seconds)
        return max(timedelta(minutes=10), min(asked, self._duration))

    async def _fail(self, csr: CertificateSigningRequest, why: str) -> None:
        moment = self.clock.now().replace(microsecond=0)
        condition = CertificateSigningRequestCondition(
            type="Failed",
            status="True",
            reason="SignerValidationFailure",
            message=why,
            last_update_time=moment,
            last_transition_time=moment,
        )
        status = replace(csr.status, conditions=(*csr.status.conditions, condition))
        await self._client.update_status(replace(csr, status=status))
