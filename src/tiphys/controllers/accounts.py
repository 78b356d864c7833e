"""The service account each controller acts as; its rights are the bootstrap role `system:controller:ACCOUNT`.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/#controller-roles
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from tiphys.base.clock import Clock
from tiphys.client import Client
from tiphys.client.account import ServiceAccountTransport
from tiphys.client.transport import HttpTransport
from tiphys.machinery.meta import ObjectName

NAMESPACE: Final = "kube-system"
# Controllers whose account is not named as they are.
ACCOUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bootstrap-signer-controller": "bootstrap-signer",
        "certificatesigningrequest-approving-controller": "certificate-controller",
        "certificatesigningrequest-cleaner-controller": "certificate-controller",
        "certificatesigningrequest-signing-controller": "certificate-controller",
        "daemonset-controller": "daemon-set-controller",
        "endpoints-controller": "endpoint-controller",
        "endpointslice-mirroring-controller": "endpointslicemirroring-controller",
        "garbage-collector-controller": "generic-garbage-collector",
        "horizontal-pod-autoscaler-controller": "horizontal-pod-autoscaler",
        "legacy-serviceaccount-token-cleaner-controller": "legacy-service-account-token-cleaner",
        "node-ipam-controller": "node-controller",
        "node-lifecycle-controller": "node-controller",
        "node-route-controller": "route-controller",
        "persistentvolume-attach-detach-controller": "attachdetach-controller",
        "persistentvolume-binder-controller": "persistent-volume-binder",
        "persistentvolume-expander-controller": "expand-controller",
        "persistentvolume-protection-controller": "pv-protection-controller",
        "persistentvolumeclaim-protection-controller": "pvc-protection-controller",
        "pod-garbage-collector-controller": "pod-garbage-collector",
        "replicationcontroller-controller": "replication-controller",
        "resourceclaim-controller": "resource-claim-controller",
        "root-ca-certificate-publisher-controller": "root-ca-cert-publisher",
        "service-cidr-controller": "service-cidrs-controller",
        "service-lb-controller": "service-controller",
        "serviceaccount-controller": "service-account-controller",
        "token-cleaner-controller": "token-cleaner",
    }
)
# Makes tokens for the accounts of all others, so it cannot need one itself.
AS_ITSELF: Final = frozenset({"serviceaccount-token-controller"})


class AccountClients:
    """Clients for the controllers, over one pool of connections. An async context manager."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._pool = HttpTransport(replace(client.config, cert_data=b"", key_data=b"", token="", token_file=""))
        self._clients: dict[str, Client] = {}

    async def __aenter__(self) -> AccountClients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    def of(self, controller: str) -> Client:
        """The client a controller acts with."""
        if controller in AS_ITSELF:
            return self._client
        account = ACCOUNTS.get(controller, controller)
        if account not in self._clients:
            name = ObjectName(NAMESPACE, account)
            transport = ServiceAccountTransport(self._pool, self._client, name, self._clock)
            agent = f"{self._client.user_agent}/{account}"
            self._clients[account] = Client(self._client.config, agent, clock=self._clock, transport=transport)
        return self._clients[account]
