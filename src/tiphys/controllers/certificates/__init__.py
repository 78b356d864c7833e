"""CertificateSigningRequests: approves kubelets' own, signs approved ones, deletes old ones.

https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

from tiphys.controllers.certificates.approver import CSRApprovingController
from tiphys.controllers.certificates.cleaner import CSRCleanerController
from tiphys.controllers.certificates.serving import KubeletServingApprover
from tiphys.controllers.certificates.signer import CSRSigningController

__all__ = ["CSRApprovingController", "CSRCleanerController", "CSRSigningController", "KubeletServingApprover"]
