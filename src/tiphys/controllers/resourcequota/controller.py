"""Counts what each namespace with a quota uses, when something in it goes away and from time to time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from msgspec.structs import replace

from tiphys.api.core.v1 import PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service
from tiphys.api.table import RESOURCES
from tiphys.client import (
    DONE,
    Controller,
    Object,
    PartialObject,
    RequeueAfter,
    Result,
    SharedInformer,
    key_of,
    metadata_endpoint,
)
from tiphys.controllers.common.context import ControllerContext
from tiphys.controllers.resourcequota import usage
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import Quantity, parse_cached

# Objects counted under their plain name besides count/NAME.
_PLAIN: Final = frozenset({"configmaps", "secrets", "replicationcontrollers", "resourcequotas"})
# Changes come in bursts; counting once for a burst is enough.
SETTLE_SECONDS: Final = 0.05
# Admission counts an object before it is created, and caches show it later still: for so long after a change of
# the status nothing is counted down, or more would be let in than there is room for.
LAG: Final = timedelta(seconds=1)


class ResourceQuotaController(Controller[ObjectName]):
    """The controller `resourcequota-controller`."""

    name = "resourcequota_primary"

    def __init__(self, context: ControllerContext) -> None:
        self._client = context.client
        self._period = context.options.resource_quota_sync_period
        self._shared = context.informers
        self._quotas = context.informers.of(ResourceQuota)
        self._pods = context.informers.of(Pod)
        self._services = context.informers.of(Service)
        self._claims = context.informers.of(PersistentVolumeClaim)
        super().__init__(context.clock, (self._quotas, self._pods, self._services, self._claims))
        self._counted: dict[str, SharedInformer[PartialObject]] = {}
        self._touched: dict[ObjectName, float] = {}  # when the status was last changed, by whomever
        self._quotas.add_handler(self._changed, self._updated, self._gone)
        for informer in (self._pods, self._services, self._claims):
            self._watch(informer)

    def _changed(self, quota: ResourceQuota) -> None:
        self.queue.add(key_of(quota))

    def _updated(self, old: ResourceQuota, new: ResourceQuota) -> None:
        # A change of the status is this controller's own, or admission's, which has counted what is to come.
        if old.spec != new.spec:
            self._changed(new)
        if old.status != new.status:
            self._touched[key_of(new)] = self.clock.monotonic()

    def _gone(self, quota: ResourceQuota) -> None:
        self._touched.pop(key_of(quota), None)

    def _watch(self, informer: SharedInformer[Any]) -> None:
        def updated(old: Object, new: Object) -> None:
            if _weight(old) != _weight(new):
                self._replenish(new)

        informer.add_handler(self._replenish, updated, self._replenish)

    def _replenish(self, obj: Object) -> None:
        for quota in self._quotas.lister.list(obj.metadata.namespace):
            self.queue.add_after(key_of(quota), SETTLE_SECONDS)

    async def sync(self, key: ObjectName) -> Result:
        """Count for one quota."""
        quota = self._quotas.lister.get(key)
        if quota is None:
            return DONE
        hard = {name: parse_cached(value) for name, value in quota.spec.hard.items()}
        used = await self._used(quota, set(hard))
        status = ResourceQuotaStatus(
            hard=dict(quota.spec.hard), used={name: str(used.get(name, usage.ZERO)) for name in hard}
        )
        counted, known = _amounts(status), _amounts(quota.status)
        lowers = any(amount > counted[1].get(name, usage.ZERO) for name, amount in known[1].items())
        if lowers and self.clock.monotonic() < self._touched.get(key, -LAG.total_seconds()) + LAG.total_seconds():
            return RequeueAfter(LAG)
        if counted != known:
            with suppress(NotFoundError):
                await self._client.update_status(replace(quota, status=status))
        return RequeueAfter(self._period)

    async def _used(self, quota: ResourceQuota, names: set[str]) -> dict[str, Quantity]:
        namespace = quota.metadata.namespace
        pods = [pod for pod in self._pods.lister.list(namespace) if usage.in_scope(quota, pod)]
        used = usage.total(map(usage.of_pod, pods))
        if usage.has_scopes(quota):
            return used
        usage.add(used, usage.total(map(usage.of_service, self._services.lister.list(namespace))))
        usage.add(used, usage.total(map(usage.of_claim, self._claims.lister.list(namespace))))
        for name in names - used.keys():
            informer = self._counter(name)
            if informer is not None:
                await informer.synced()
                used[name] = Quantity.of(len(informer.lister.list(namespace)))
        return used

    def _counter(self, name: str) -> SharedInformer[PartialObject] | None:
        """The informer that counts objects for `count/RESOURCE.GROUP` or a plain name; None for other quotas."""
        if name not in _PLAIN and not name.startswith("count/"):
            return None
        if name not in self._counted:
            plural, _, group = name.removeprefix("count/").partition(".")
            found = next(
                (one for one in RESOURCES if (one.plural, one.group) == (plural, group) and one.preferred), None
            )
            if found is None or not found.namespaced:
                return None
            endpoint = metadata_endpoint(found.group, found.version, found.plural, found.kind, namespaced=True)
            informer = self._shared.of(endpoint)
            informer.add_handler(self._replenish, None, self._replenish)
            self._counted[name] = informer
        return self._counted[name]


def _amounts(status: ResourceQuotaStatus) -> tuple[dict[str, Quantity], dict[str, Quantity]]:
    parse: Callable[[str], Quantity] = parse_cached
    return (
        {name: parse(value) for name, value in status.hard.items()},
        {name: parse(value) for name, value in status.used.items()},
    )


def _weight(obj: Object) -> object:
    """What of an object its quota sees."""
    if isinstance(obj, Pod):
        return usage.of_pod(obj)
    if isinstance(obj, Service):
        return usage.of_service(obj)
    return usage.of_claim(obj) if isinstance(obj, PersistentVolumeClaim) else None
