"""CertificateApproval, -Signing and -SubjectRestriction, ClusterTrustBundleAttest: who may vouch for whom.

https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization and
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#cluster-trust-bundles
"""

from __future__ import annotations

import base64
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from tiphys.apiserver.admission.base import CREATE, UPDATE, WRITE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.authn.interface import GROUP_MASTERS
from tiphys.apiserver.authz.interface import Attributes, Authorizer

GROUP: Final = "certificates.k8s.io"
REQUESTS: Final = "certificatesigningrequests"
CLIENT_SIGNER: Final = "kubernetes.io/kube-apiserver-client"


def may(authorizer: Authorizer, attributes: AdmissionAttributes, verb: str, signer: str) -> bool:
    """Whether the user may approve or sign for a signer, by its name or for all of its domain."""
    domain = signer.partition("/")[0]
    return any(
        authorizer.authorize(
            Attributes(
                user=attributes.user,
                verb=verb,
                resource_request=True,
                api_group=GROUP,
                api_version="*",
                resource="signers",
                name=name,
            )
        ).allowed
        for name in (signer, f"{domain}/*")
    )


class CertificateApproval(AdmissionPlugin):
    """Whoever approves or denies a request may do so for its signer."""

    name = "CertificateApproval"
    operations = UPDATE
    resources = frozenset({(GROUP, f"{REQUESTS}/approval")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        signer = _signer(attributes.old_object)
        if not may(self.authorizer, attributes, "approve", signer):
            message = f'user not permitted to approve requests with signerName "{signer}"'
            raise refuse(attributes, message)


class CertificateSigning(AdmissionPlugin):
    """Whoever issues a certificate may sign for the request's signer."""

    name = "CertificateSigning"
    operations = UPDATE
    resources = frozenset({(GROUP, f"{REQUESTS}/status")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        old, new = attributes.old_object or {}, attributes.object or {}
        if old.get("status", {}).get("certificate") == new.get("status", {}).get("certificate"):
            failed_before = _has_condition(old, "Failed")
            if failed_before or not _has_condition(new, "Failed"):
                return
        signer = _signer(old)
        if not may(self.authorizer, attributes, "sign", signer):
            raise refuse(attributes, f'user not permitted to sign requests with signerName "{signer}"')


class CertificateSubjectRestriction(AdmissionPlugin):
    """No client certificate makes its holder a member of system:masters."""

    name = "CertificateSubjectRestriction"
    operations = CREATE
    resources = frozenset({(GROUP, REQUESTS)})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        if _signer(attributes.object) != CLIENT_SIGNER:
            return
        try:
            pem = base64.b64decode((attributes.object or {}).get("spec", {}).get("request", ""))
            subject = x509.load_pem_x509_csr(pem).subject
        except ValueError:
            return  # validation says what is wrong with it
        organizations = [str(item.value) for item in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        if GROUP_MASTERS in organizations:
            message = f"use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
            raise refuse(attributes, message)


class ClusterTrustBundleAttest(AdmissionPlugin):
    """Whoever says which certificates a signer is known by may attest for it."""

    name = "ClusterTrustBundleAttest"
    operations = WRITE
    resources = frozenset({(GROUP, "clustertrustbundles")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        signer = _signer(attributes.object)
        if not signer or (attributes.old_object is not None and _only_collected(attributes)):
            return
        if not may(self.authorizer, attributes, "attest", signer):
            raise refuse(attributes, f'user not permitted to attest for signerName "{signer}"')


def _only_collected(attributes: AdmissionAttributes) -> bool:
    """Whether an update is the garbage collector's: of nothing but owners and finalizers."""
    kept = ("ownerReferences", "finalizers", "managedFields", "resourceVersion")
    versions = []
    for obj in (attributes.object or {}, attributes.old_object or {}):
        metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in kept}
        versions.append({**obj, "metadata": metadata})
    return bool(versions[0] == versions[1])


def _signer(request: Object | None) -> str:
    return str(((request or {}).get("spec") or {}).get("signerName", ""))


def _has_condition(request: Object, kind: str) -> bool:
    return any(item.get("type") == kind for item in request.get("status", {}).get("conditions") or ())
