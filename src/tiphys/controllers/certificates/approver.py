"""Approves the client certificates that kubelets ask for, when their identity may have them."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from tiphys.api.authorization.v1 import ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec
from tiphys.api.certificates.v1 import CertificateSigningRequest, CertificateSigningRequestCondition
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.client.endpoint import endpoint_of
from tiphys.controllers.certificates import requests
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.meta import ObjectName

# (subresource that the requester must be allowed to create, message); the more particular one first.
_RULES: Final = (
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
)


class CSRApprovingController(Controller[ObjectName]):
    """The controller `certificatesigningrequest-approving-controller`."""

    name = "certificate"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._requests = context.informers.of(CertificateSigningRequest)
        super().__init__(context.clock, (self._requests,))
        enqueue(self.queue, self._requests)

    async def sync(self, key: ObjectName) -> Result:
        """Approve one request, if a rule covers it."""
        csr = self._requests.lister.get(key)
        if csr is None or csr.status.certificate or requests.is_decided(csr):
            return DONE
        try:
            request = requests.parse(csr)
        except ValueError:
            return DONE
        for subresource, message in _RULES:
            own = subresource == "selfnodeclient"
            fits = requests.is_own_node_client if own else requests.is_node_client
            if fits(csr, request) and await self._allowed(csr, subresource):
                await self._approve(csr, message)
                return DONE
        return DONE

    async def _allowed(self, csr: CertificateSigningRequest, subresource: str) -> bool:
        attributes = ResourceAttributes(
            group="certificates.k8s.io",
            resource="certificatesigningrequests",
            verb="create",
            subresource=subresource,
            version="*",
        )
        spec = SubjectAccessReviewSpec(
            user=csr.spec.username,
            uid=csr.spec.uid,
            groups=csr.spec.groups,
            extra=csr.spec.extra,
            resource_attributes=attributes,
        )
        review = await self._client.create(SubjectAccessReview(spec=spec))
        return bool(review.status.allowed)

    async def _approve(self, csr: CertificateSigningRequest, message: str) -> None:
        moment = self.clock.now().replace(microsecond=0)
        condition = CertificateSigningRequestCondition(
            type="Approved",
            status="True",
            reason="AutoApproved",
            message=message,
            last_update_time=moment,
            last_transition_time=moment,
        )
        approved = replace(csr, status=replace(csr.status, conditions=(*csr.status.conditions, condition)))
        path = endpoint_of(CertificateSigningRequest).path("", csr.metadata.name, "approval")
        await self._client.request_json("PUT", path, approved)
