"""Fills secrets of type kubernetes.io/service-account-token, and deletes them with their account.

https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Secret, ServiceAccount
from tiphys.client import DONE, Controller, Preconditions, Result, enqueue, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.serviceaccount.jwt import Signer
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

TYPE: Final = "kubernetes.io/service-account-token"
ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"
ACCOUNT_UID: Final = "kubernetes.io/service-account.uid"
BY_ACCOUNT: Final = "account"


class TokenController(Controller[ObjectName]):
    """The controller `serviceaccount-token-controller`; its keys are secrets."""

    name = "serviceaccount_tokens_secret"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._ca = context.options.root_ca
        key = context.options.service_account_key
        self._signer = Signer(key) if key else None
        self._accounts = context.informers.of(ServiceAccount)
        self._secrets = context.informers.of(Secret, field_selector=f"type={TYPE}")
        super().__init__(context.clock, (self._accounts, self._secrets))
        self._secrets.add_index(
            BY_ACCOUNT,
            lambda secret: (f"{secret.metadata.namespace}/{secret.metadata.annotations.get(ACCOUNT_NAME, '')}",),
        )
        enqueue(self.queue, self._secrets)
        self._accounts.add_handler(self._account_changed, None, self._account_changed)

    def _account_changed(self, account: ServiceAccount) -> None:
        for secret in self._secrets.lister.by_index(BY_ACCOUNT, str(key_of(account))):
            self.queue.add(key_of(secret))

    async def sync(self, key: ObjectName) -> Result:
        """Fill, mend or delete one secret."""
        secret = self._secrets.lister.get(key)
        if secret is None or secret.metadata.deletion_timestamp is not None:
            return DONE
        account = await self._account_of(secret)
        if account is None:
            only_if = Preconditions(uid=secret.metadata.uid, resource_version=secret.metadata.resource_version)
            with suppress(NotFoundError):
                await self._client.delete(Secret, key, only_if=only_if)
            return DONE
        filled = self._filled(secret, account)
        if filled is not secret:
            with suppress(NotFoundError):
                await self._client.update(filled)
        return DONE

    async def _account_of(self, secret: Secret) -> ServiceAccount | None:
        name = ObjectName(secret.metadata.namespace, secret.metadata.annotations.get(ACCOUNT_NAME, ""))
        uid = secret.metadata.annotations.get(ACCOUNT_UID, "")
        account = self._accounts.lister.get(name)
        if account is None:
            # The cache may be behind; deleting a secret needs certainty.
            with suppress(NotFoundError):
                account = await self._client.get(ServiceAccount, name)
        return account if account is not None and uid in ("", account.metadata.uid) else None

    def _filled(self, secret: Secret, account: ServiceAccount) -> Secret:
        """The secret with CA, namespace and token; itself when nothing is missing."""
        data = dict(secret.data)
        if self._ca:
            data["ca.crt"] = self._ca
        data["namespace"] = secret.metadata.namespace.encode()
        if not data.get("token") and self._signer is not None:
            data["token"] = self._signer.sign(_claims(secret, account)).encode()
        annotations = {**secret.metadata.annotations, ACCOUNT_UID: account.metadata.uid}
        if data == dict(secret.data) and annotations == dict(secret.metadata.annotations):
            return secret
        return replace(secret, metadata=replace(secret.metadata, annotations=annotations), data=data)


def _claims(secret: Secret, account: ServiceAccount) -> dict[str, str]:
    namespace, name = account.metadata.namespace, account.metadata.name
    return {
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": f"system:serviceaccount:{namespace}:{name}",
    }
