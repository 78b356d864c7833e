"""Deletes bootstrap token secrets when they expire."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from tiphys.api.core.v1 import Secret
from tiphys.client import DONE, Controller, Preconditions, RequeueAfter, Result, enqueue
from tiphys.controllers.bootstrap import tokens
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName


class TokenCleanerController(Controller[ObjectName]):
    """The controller `token-cleaner-controller`."""

    name = "token_cleaner"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._secrets = context.informers.of(Secret, namespace="kube-system", field_selector=f"type={tokens.TYPE}")
        super().__init__(context.clock, (self._secrets,))
        enqueue(self.queue, self._secrets)

    async def sync(self, key: ObjectName) -> Result:
        """Delete one secret when its time has come."""
        secret = self._secrets.lister.get(key)
        end = tokens.expires(secret) if secret is not None else None
        if secret is None or end is None:
            return DONE
        left = end - self.clock.now()
        if left > timedelta(0):
            return RequeueAfter(left)
        with suppress(NotFoundError):
            await self._client.delete(Secret, key, only_if=Preconditions(uid=secret.metadata.uid))
        return DONE
