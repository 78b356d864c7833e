"""Takes a namespace that is being deleted to its end: delete the content, report what is left, finalize."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Namespace
from tiphys.client import DONE, Controller, RequeueAfter, Result, discover, enqueue
from tiphys.client.endpoint import endpoint_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.namespace.conditions import conditions_of, merged
from tiphys.controllers.namespace.content import Left, delete_content
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

FINALIZER: Final = "kubernetes"
FIRST_RETRY: Final = timedelta(milliseconds=100)
LONGEST_RETRY: Final = timedelta(seconds=15)


class NamespaceController(Controller[ObjectName]):
    """The controller `namespace-controller`."""

    name = "namespace"
    workers = 10

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._namespaces = context.informers.of(Namespace)
        super().__init__(context.clock, (self._namespaces,))
        self._retry: dict[ObjectName, timedelta] = {}
        enqueue(self.queue, self._namespaces)

    async def sync(self, key: ObjectName) -> Result:
        """Do one round of deletion for one namespace."""
        cached = self._namespaces.lister.get(key)
        if cached is None or cached.metadata.deletion_timestamp is None:
            self._retry.pop(key, None)
            return DONE
        try:
            # The finalizers decide whether anything may be deleted at all: ask the server, not the cache.
            namespace = await self._client.get(Namespace, key)
            return await self._round(key, namespace)
        except NotFoundError:
            return DONE

    async def _round(self, key: ObjectName, namespace: Namespace) -> Result:
        if namespace.metadata.deletion_timestamp is None or FINALIZER not in namespace.spec.finalizers:
            return DONE
        found = await discover(self._client)
        resources = [resource for resource in found.preferred("list", "delete") if resource.namespaced]
        left = await delete_content(self._client, key.name, resources, self.clock.now())
        namespace = await self._report(namespace, left, dict(found.failed))
        if left.anything or found.failed:
            return RequeueAfter(self._next_try(key, left))
        finalizers = tuple(name for name in namespace.spec.finalizers if name != FINALIZER)
        emptied = replace(namespace, spec=replace(namespace.spec, finalizers=finalizers))
        path = endpoint_of(Namespace).path("", key.name, "finalize")
        await self._client.request_json("PUT", path, emptied)
        self._retry.pop(key, None)
        return DONE

    async def _report(self, namespace: Namespace, left: Left, failed: dict[str, str]) -> Namespace:
        wanted = conditions_of(left, failed)
        conditions = merged(namespace.status.conditions, wanted, self.clock.now())
        status = replace(namespace.status, phase="Terminating", conditions=conditions)
        if status == namespace.status:
            return namespace
        return await self._client.update_status(replace(namespace, status=status))

    def _next_try(self, key: ObjectName, left: Left) -> timedelta:
        """Half of the grace period that pods still have, but soon at first: most end early."""
        wait = self._retry.get(key, FIRST_RETRY)
        self._retry[key] = min(wait * 2, max(LONGEST_RETRY, left.longest / 2))
        return wait
