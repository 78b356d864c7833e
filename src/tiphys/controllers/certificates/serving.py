"""Approves the serving certificates that kubelets ask for, for names and addresses their Node has.

Upstream leaves that to administrators. Here a node that joins has its logs at once, because the API server checks
kubelets' certificates. Nothing is given away by it: the API server looks for a node's kubelet at the addresses in
its Node's status, so whoever writes those is trusted for them already; a certificate for anything else stays
for an administrator to decide.
https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#client-and-serving-certificates
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from msgspec.structs import replace

from tiphys.api.certificates.v1 import CertificateSigningRequest, CertificateSigningRequestCondition
from tiphys.api.core.v1 import Node
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.client.endpoint import endpoint_of
from tiphys.controllers.certificates import requests
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.meta import ObjectName

PREFIX: Final = "system:node:"
MESSAGE: Final = "Auto approving kubelet serving certificate: the names and addresses are those of its Node."


def fits_node(csr: CertificateSigningRequest, request: x509.CertificateSigningRequest, node: Node) -> bool:
    """Whether the node asks for itself, and for nothing but its own names and addresses."""
    if csr.spec.signer_name != requests.KUBELET_SERVING or requests.refusal(csr, request):
        return False
    if csr.spec.username != f"{PREFIX}{node.metadata.name}" or requests.names(request)[0] != csr.spec.username:
        return False
    own = {node.metadata.name, *(address.address for address in node.status.addresses)}
    return all(
        isinstance(name, x509.DNSName | x509.IPAddress) and str(name.value) in own
        for name in requests.alternative_names(request)
    )


class KubeletServingApprover(Controller[ObjectName]):
    """The controller `kubelet-serving-approver`. A request waits until its Node has the addresses."""

    name = "kubelet_serving_approver"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._requests = context.informers.of(CertificateSigningRequest)
        self._nodes = context.informers.of(Node)
        super().__init__(context.clock, (self._requests, self._nodes))
        enqueue(self.queue, self._requests)
        self._nodes.add_handler(self._node_changed, lambda _, node: self._node_changed(node), None)

    def _node_changed(self, node: Node) -> None:
        user = f"{PREFIX}{node.metadata.name}"
        for csr in self._requests.lister.list():
            if csr.spec.username == user and not requests.is_decided(csr):
                self.queue.add(ObjectName("", csr.metadata.name))

    async def sync(self, key: ObjectName) -> Result:
        """Approve one request, if it fits."""
        csr = self._requests.lister.get(key)
        if csr is None or csr.status.certificate or requests.is_decided(csr):
            return DONE
        node = self._nodes.lister.get(ObjectName("", csr.spec.username.removeprefix(PREFIX)))
        try:
            request = requests.parse(csr)
        except ValueError:
            return DONE
        if node is None or not fits_node(csr, request, node):
            return DONE
        moment = self.clock.now().replace(microsecond=0)
        condition = CertificateSigningRequestCondition(
            type="Approved",
            status="True",
            reason="AutoApproved",
            message=MESSAGE,
            last_update_time=moment,
            last_transition_time=moment,
        )
        approved = replace(csr, status=replace(csr.status, conditions=(*csr.status.conditions, condition)))
        path = endpoint_of(CertificateSigningRequest).path("", csr.metadata.name, "approval")
        await self._client.request_json("PUT", path, approved)
        return DONE
