"""Reading a certificate request: what it asks for and whether a signer may give it. Pure."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from tiphys.api.certificates.v1 import CertificateSigningRequest

KUBELET_CLIENT: Final = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING: Final = "kubernetes.io/kubelet-serving"
CLIENT: Final = "kubernetes.io/kube-apiserver-client"
LEGACY: Final = "kubernetes.io/legacy-unknown"

_CLIENT_USAGES: Final = (
    frozenset({"key encipherment", "digital signature", "client auth"}),
    frozenset({"digital signature", "client auth"}),
)
_SERVING_USAGES: Final = (
    frozenset({"key encipherment", "digital signature", "server auth"}),
    frozenset({"digital signature", "server auth"}),
)


def parse(csr: CertificateSigningRequest) -> x509.CertificateSigningRequest:
    """The PKCS#10 request. Raises ValueError when it is not one."""
    return x509.load_pem_x509_csr(bytes(csr.spec.request))


def names(request: x509.CertificateSigningRequest) -> tuple[str, list[str]]:
    """(common name, organizations)."""
    common = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    organizations = request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return (str(common[0].value) if common else ""), [str(one.value) for one in organizations]


def alternative_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """The subject alternative names asked for."""
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value)


def is_approved(csr: CertificateSigningRequest) -> bool:
    """Whether it is approved and not denied."""
    found = {condition.type for condition in csr.status.conditions}
    return "Approved" in found and "Denied" not in found


def is_decided(csr: CertificateSigningRequest) -> bool:
    """Whether it is approved or denied."""
    return any(condition.type in ("Approved", "Denied") for condition in csr.status.conditions)


def refusal(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> str:
    """Why the request does not fit its signer; "" when it does."""
    common, organizations = names(request)
    usages = set(csr.spec.usages)
    match csr.spec.signer_name:
        case name if name in (KUBELET_CLIENT, KUBELET_SERVING):
            if organizations != ["system:nodes"]:
                return "subject organization is not system:nodes"
            if not common.startswith("system:node:"):
                return "subject common name does not begin with system:node: "
            if name == KUBELET_CLIENT:
                if alternative_names(request):
                    return "subject alternative names are not allowed"
                return "" if usages in _CLIENT_USAGES else "usages did not match"
            if not alternative_names(request):
                return "DNS or IP subjectAltName is required"
            return "" if usages in _SERVING_USAGES else "usages did not match"
        case name if name == CLIENT:
            return "" if "client auth" in usages and "server auth" not in usages else "usages did not match"
    return ""


def is_node_client(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> bool:
    """Whether it asks for a kubelet's client certificate, as its signer demands."""
    return csr.spec.signer_name == KUBELET_CLIENT and not refusal(csr, request)


def is_own_node_client(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest) -> bool:
    """Whether the kubelet asks for the certificate of the node it is."""
    return is_node_client(csr, request) and csr.spec.username == names(request)[0]
