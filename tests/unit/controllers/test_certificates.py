"""Which serving certificates a kubelet gets without anybody being asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tiphys.api.certificates.v1 import CertificateSigningRequest, CertificateSigningRequestSpec
from tiphys.api.core.v1 import Node, NodeAddress, NodeStatus
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.apiserver.pki import general_names, new_key
from tiphys.controllers.certificates import requests
from tiphys.controllers.certificates.serving import fits_node

NODE = Node(
    metadata=ObjectMeta(name="n1"),
    status=NodeStatus(
        addresses=(
            NodeAddress(type="InternalIP", address="172.30.0.9"),
            NodeAddress(type="Hostname", address="n1.example"),
        )
    ),
)


def csr(
    names: Sequence[str],
    *,
    common_name: str = "system:node:n1",
    user: str = "system:node:n1",
    signer: str = requests.KUBELET_SERVING,
    usages: tuple[str, ...] = ("digital signature", "server auth"),
) -> CertificateSigningRequest:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names(names)), critical=False)
    pem = builder.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    spec = CertificateSigningRequestSpec(request=pem, signer_name=signer, usages=usages, username=user)
    return CertificateSigningRequest(metadata=ObjectMeta(name="csr"), spec=spec)


@pytest.mark.parametrize(
    ("request_", "fits"),
    [
        pytest.param(csr(["n1", "172.30.0.9"]), True, id="its name and address"),
        pytest.param(csr(["n1.example"]), True, id="its host name"),
        pytest.param(csr(["n1", "172.30.0.10"]), False, id="another's address"),
        pytest.param(csr(["n1", "kubernetes.default"]), False, id="another's name"),
        pytest.param(csr([]), False, id="no name"),
        pytest.param(csr(["n1"], common_name="system:node:n2"), False, id="for another node"),
        pytest.param(csr(["n1"], user="system:node:n2"), False, id="by another node"),
        pytest.param(csr(["n1"], user="system:bootstrap:abcdef"), False, id="by a token"),
        pytest.param(csr(["n1"], usages=("digital signature", "client auth")), False, id="to be a client"),
        pytest.param(csr(["n1"], signer=requests.KUBELET_CLIENT), False, id="of another signer"),
    ],
)
def test_fits_node(request_: CertificateSigningRequest, fits: bool) -> None:
    assert fits_node(request_, requests.parse(request_), NODE) is fits
