"""Ranges of service addresses: ready when they are there, kept while an address of theirs is in use.

https://kubernetes.io/docs/tasks/network/extend-service-ip-ranges/
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Any, Final

from msgspec.structs import replace

from tiphys.api.networking.v1 import IPAddress, ServiceCIDR
from tiphys.client import DONE, Controller, PatchType, RequeueAfter, Result, enqueue, key_of
from tiphys.controllers.common.context import ControllerContext
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.time import format_time

FINALIZER: Final = "networking.k8s.io/service-cidr-finalizer"
MANAGER: Final = "service-cidr-controller"
READY_MESSAGE: Final = "Kubernetes Service CIDR is ready"
IN_USE_MESSAGE: Final = (
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)
# API servers that have not seen the deletion yet may still give addresses away.
GRACE: Final = timedelta(seconds=10)


def depends_on(address: str, cidr: ServiceCIDR, others: Iterable[ServiceCIDR]) -> bool:
    """Whether an address is of `cidr` and of none of the `others` that stay."""
    return _contains(cidr, address) and not any(_contains(other, address) for other in others)


def _contains(cidr: ServiceCIDR, address: str) -> bool:
    return any(ip_address(address) in ip_network(text) for text in cidr.spec.cidrs)


class ServiceCIDRController(Controller[ObjectName]):
    """The controller `service-cidr-controller`."""

    name = "service-cidr-controller"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._cidrs = context.informers.of(ServiceCIDR)
        self._addresses = context.informers.of(IPAddress)
        super().__init__(context.clock, (self._cidrs, self._addresses))
        enqueue(self.queue, self._cidrs)
        # A range that goes may have waited for a new one, or for the last of its addresses.
        self._cidrs.add_handler(lambda _: self._wake_leaving(), None, None)
        self._addresses.add_handler(None, None, lambda _: self._wake_leaving())

    def _wake_leaving(self) -> None:
        for cidr in self._cidrs.lister.list():
            if cidr.metadata.deletion_timestamp is not None:
                self.queue.add(key_of(cidr))

    async def sync(self, key: ObjectName) -> Result:
        """Make one range ready, or let it go once nothing needs it."""
        cidr = self._cidrs.lister.get(key)
        if cidr is None:
            return DONE
        if cidr.metadata.deletion_timestamp is not None:
            return await self._leave(cidr)
        if FINALIZER not in cidr.metadata.finalizers:
            finalizers = (*cidr.metadata.finalizers, FINALIZER)
            cidr = await self._client.update(replace(cidr, metadata=replace(cidr.metadata, finalizers=finalizers)))
        if self._condition(cidr) is None:
            await self._say(cidr, "True", "", READY_MESSAGE)
        return DONE

    async def _leave(self, cidr: ServiceCIDR) -> Result:
        if FINALIZER not in cidr.metadata.finalizers:
            return DONE
        if self._is_needed(cidr):
            if self._condition(cidr) != "Terminating":
                await self._say(cidr, "False", "Terminating", IN_USE_MESSAGE)
            return DONE
        assert cidr.metadata.deletion_timestamp is not None
        left = cidr.metadata.deletion_timestamp + GRACE - self.clock.now()
        if left > timedelta(0):
            return RequeueAfter(left)
        kept = tuple(name for name in cidr.metadata.finalizers if name != FINALIZER)
        with suppress(NotFoundError):
            await self._client.update(replace(cidr, metadata=replace(cidr.metadata, finalizers=kept)))
        return DONE

    def _is_needed(self, cidr: ServiceCIDR) -> bool:
        staying = [one for one in self._cidrs.lister.list() if one.metadata.deletion_timestamp is None]
        return any(depends_on(one.metadata.name, cidr, staying) for one in self._addresses.lister.list())

    def _condition(self, cidr: ServiceCIDR) -> str | None:
        """The reason of the Ready condition; None without one."""
        return next((one.reason for one in cidr.status.conditions if one.type == "Ready"), None)

    async def _say(self, cidr: ServiceCIDR, status: str, reason: str, message: str) -> None:
        condition = {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": format_time(self.clock.now()),
        }
        applied: dict[str, Any] = {
            "apiVersion": ServiceCIDR.API_VERSION,
            "kind": ServiceCIDR.KIND,
            "metadata": {"name": cidr.metadata.name},
            "status": {"conditions": [condition]},
        }
        await self._client.patch(
            ServiceCIDR,
            key_of(cidr),
            applied,
            patch_type=PatchType.APPLY,
            subresource="status",
            field_manager=MANAGER,
            force=True,
        )
