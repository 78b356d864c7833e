"""The certificates of a cluster: complete, stable, renewed when they no longer fit."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tiphys.apiserver.pki import Pki, PkiError, load_certificate


def test_a_second_look_finds_the_same_authority_and_certificates(tmp_path: Path) -> None:
    first = Pki(tmp_path)
    server = first.server("apiserver", "kube-apiserver", ["kubernetes", "10.96.0.1"])
    before = server.with_name("apiserver.crt").read_bytes()
    second = Pki(tmp_path)
    second.server("apiserver", "kube-apiserver", ["10.96.0.1"])
    assert second.ca.pem == first.ca.pem
    assert server.with_name("apiserver.crt").read_bytes() == before
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


def test_a_serving_certificate_is_renewed_for_a_new_name(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    pki.server("apiserver", "kube-apiserver", ["kubernetes"])
    pki.server("apiserver", "kube-apiserver", ["kubernetes", "192.0.2.7"])
    names = load_certificate(tmp_path / "apiserver.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(value) for value in names.value.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_a_client_certificate_names_user_and_groups_and_is_signed_by_the_authority(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    base = pki.client("kubelet", "system:node:n1", ["system:nodes"])
    certificate = load_certificate(base.with_name("kubelet.crt"))
    assert certificate.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
    certificate.verify_directly_issued_by(pki.ca.certificate)


def test_a_pair_torn_by_a_crash_is_made_again(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    pki.client("admin", "admin")
    other = pki.ca.client("admin")
    (tmp_path / "admin.key").write_bytes(other.key)
    pki.client("admin", "admin")
    public = load_certificate(tmp_path / "admin.crt").public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert (tmp_path / "admin.key").read_bytes() != other.key


def test_an_unreadable_authority_is_named(tmp_path: Path) -> None:
    Pki(tmp_path)
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(PkiError, match=r"ca\.crt is not a readable certificate"):
        Pki(tmp_path)
