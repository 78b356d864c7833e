"""Gives every namespace its service account `default`."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from tiphys.api.core.v1 import Namespace, ServiceAccount
from tiphys.api.meta.v1 import ObjectMeta
from tiphys.client import DONE, Controller, Result, enqueue
from tiphys.controllers.common.context import MANY_WORKERS, ControllerContext
from tiphys.controllers.common.podcontrol import namespace_terminating
from tiphys.machinery.errors import AlreadyExistsError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName

ACCOUNT: Final = "default"


class ServiceAccountController(Controller[ObjectName]):
    """The controller `serviceaccount-controller`; its keys are namespaces."""

    name = "serviceaccount"
    workers = MANY_WORKERS

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._namespaces = context.informers.of(Namespace)
        self._accounts = context.informers.of(ServiceAccount)
        super().__init__(context.clock, (self._namespaces, self._accounts))
        enqueue(self.queue, self._namespaces)
        self._accounts.add_handler(on_delete=self._account_deleted)

    def _account_deleted(self, account: ServiceAccount) -> None:
        if account.metadata.name == ACCOUNT:
            self.queue.add(ObjectName("", account.metadata.namespace))

    async def sync(self, key: ObjectName) -> Result:
        """Make the account where it is missing."""
        namespace = self._namespaces.lister.get(key)
        if namespace is None or namespace.status.phase == "Terminating":
            return DONE
        if self._accounts.lister.get(ObjectName(key.name, ACCOUNT)) is not None:
            return DONE
        account = ServiceAccount(metadata=ObjectMeta(name=ACCOUNT, namespace=key.name))
        with suppress(AlreadyExistsError, NotFoundError):
            try:
                await self._client.create(account)
            except StatusError as error:
                if not namespace_terminating(error):
                    raise
        return DONE
