"""Client certificates."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.unit.apiserver.authn.people import Asking
from tiphys.apiserver.authn.x509 import ClientCertificateAuthenticator
from tiphys.apiserver.pki import Authority
from tiphys.base.clock import FakeClock
from tiphys.machinery.errors import UnauthorizedError

CA = Authority.create("ca")


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def clock(**later: float) -> FakeClock:
    return FakeClock(datetime.now(UTC) + timedelta(**later))


async def test_the_subject_is_the_user() -> None:
    certificate = der(CA.client("alice", ["devs", "ops"]).certificate)
    user = await ClientCertificateAuthenticator(clock()).authenticate(Asking(peer_certificate=certificate))
    assert user is not None and (user.name, sorted(user.groups)) == ("alice", ["devs", "ops"])
    assert user.extra["authentication.kubernetes.io/credential-id"][0].startswith("X509SHA256=")


@pytest.mark.parametrize(
    "certificate", [None, der(CA.server("alice", ["a.test"]).certificate)], ids=["none", "a server's"]
)
async def test_nobody_is_named(certificate: bytes | None) -> None:
    asking = Asking(peer_certificate=certificate)
    assert await ClientCertificateAuthenticator(clock()).authenticate(asking) is None


@pytest.mark.parametrize(("later", "valid"), [({"hours": 0.9}, True), ({"hours": 1.1}, False), ({"days": -2}, False)])
async def test_a_connection_may_outlive_its_certificate(later: dict[str, float], valid: bool) -> None:
    asking = Asking(peer_certificate=der(CA.client("alice", lifetime=timedelta(hours=1)).certificate))
    authenticator = ClientCertificateAuthenticator(clock(**later))
    if valid:
        assert await authenticator.authenticate(asking)
    else:
        with pytest.raises(UnauthorizedError):
            await authenticator.authenticate(asking)


async def test_a_certificate_that_says_nothing_of_its_use() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plain")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(datetime.now(UTC) - timedelta(hours=1))
    found = made.not_valid_after(datetime.now(UTC) + timedelta(hours=1)).sign(key, hashes.SHA256())
    asking = Asking(peer_certificate=found.public_bytes(Encoding.DER))
    user = await ClientCertificateAuthenticator(clock()).authenticate(asking)
    assert user is not None and user.name == "plain"
