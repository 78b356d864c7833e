"""ResourceQuota: nothing is made that would use more than its namespace has left.

    the object's usage (less that of its old version) ─ for each quota about it: used + usage ≤ hard? ─ no: 403
                             └ all: status.used is raised, compare-and-swap, before the write

The counter is raised before the object exists, so that two requests can never both take the last place. When the
write then fails, the controller counts again. What has gone is also given back by the controller. A quota counts from
the moment the controller has filled in its status.
https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from tiphys.apiserver.admission.base import WRITE, AdmissionParts, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.apiserver.admission.quota.scopes import in_scopes
from tiphys.apiserver.admission.quota.usage import ZERO, Usage, unsaid, usage_of
from tiphys.machinery.quantity import Quantity

QUOTAS: Final = "resourcequotas"
# Objects that come and go by themselves are not counted.
_IGNORED: Final = frozenset({("", "events"), ("events.k8s.io", "events")})
# Kinds whose use changes while they live; of all others only the creation counts.
_CHANGING: Final = frozenset({("", "services"), ("", "persistentvolumeclaims")})


class ResourceQuota(AdmissionPlugin):
    """Looks at everything that is made in a namespace with quotas."""

    name = "ResourceQuota"
    operations = WRITE

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        self._statuses = parts.statuses
        # One change of a namespace's counters at a time in this server; other servers are met by compare-and-swap.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def handles(self, attributes: AdmissionAttributes) -> bool:
        resource = (attributes.resource.group, attributes.resource.resource)
        if resource in _IGNORED:
            return False
        if attributes.subresource:
            return attributes.subresource == "resize" and resource == ("", "pods")
        if attributes.operation is Operation.CREATE:
            return True
        return attributes.operation is Operation.UPDATE and resource in _CHANGING

    async def validate(self, attributes: AdmissionAttributes) -> None:
        namespace, obj = attributes.namespace, attributes.object
        if obj is None or not namespace or not self.reader.list("", QUOTAS, namespace):
            return
        request = _Request(attributes, obj)
        if attributes.dry_run:
            request.charges(self.reader.list("", QUOTAS, namespace))
            return
        lock = self._locks.setdefault(namespace, asyncio.Lock())
        async with lock:
            for name in request.charges(self.reader.list("", QUOTAS, namespace)):
                await self._statuses.change_status("", QUOTAS, namespace, name, request.charge)


class _Request:
    """One write, and what it adds to the namespace's use."""

    def __init__(self, attributes: AdmissionAttributes, obj: Mapping[str, Any]) -> None:
        self._attributes = attributes
        self._object = obj
        resource = attributes.resource
        self._resource = resource.resource
        self._usage = usage_of(resource.group, resource.resource, obj)
        self._before: Usage = {}
        if attributes.old_object is not None:
            self._before = usage_of(resource.group, resource.resource, attributes.old_object)

    def charges(self, quotas: Iterable[Mapping[str, Any]]) -> list[str]:
        """Names of the quotas whose counters change. StatusError (403) when one has not enough left."""
        names = []
        for quota in quotas:
            limited = self._limited(quota)
            if not limited:
                continue
            self._check_said(quota, limited)
            if self._increase(quota, limited):
                names.append(quota["metadata"]["name"])
        return names

    def charge(self, quota: Object) -> None:
        """Raise the counters of a quota in place."""
        increase = self._increase(quota, self._limited(quota))
        status = quota.setdefault("status", {})
        used = dict(status.get("used") or {})
        for name, amount in increase.items():
            used[name] = str(Quantity.parse(used[name]) + amount)
        status["used"] = used

    def _limited(self, quota: Mapping[str, Any]) -> dict[str, Quantity]:
        """What a quota limits of the things this object uses; empty when it is not about the object."""
        hard = (quota.get("status") or {}).get("hard") or {}
        required = set(hard) & self._interesting(hard)
        if not required or not in_scopes(quota, self._resource, self._object):
            return {}
        return {name: Quantity.parse(hard[name]) for name in required}

    def _interesting(self, hard: Mapping[str, Any]) -> set[str]:
        names = set(self._usage)
        if self._resource == "pods" and "pods" in self._usage:
            names.update(name for name in hard if name.startswith(("requests.", "limits.")) or name in _BARE)
        return names

    def _check_said(self, quota: Mapping[str, Any], limited: Iterable[str]) -> None:
        if self._resource != "pods" or self._attributes.resource.group:
            return
        missing = unsaid(self._object, limited)
        if missing:
            parts = "; ".join(f"{name} for: {','.join(containers)}" for name, containers in missing.items())
            raise refuse(self._attributes, f"failed quota: {quota['metadata']['name']}: must specify {parts}")

    def _increase(self, quota: Mapping[str, Any], limited: Mapping[str, Quantity]) -> Usage:
        """What changes of the counters. StatusError (403) when too little is left."""
        known = (quota.get("status") or {}).get("used") or {}
        name = quota["metadata"]["name"]
        unknown = sorted(key for key in limited if key not in known)
        if unknown:
            message = f"status unknown for quota: {name}, resources: {','.join(unknown)}"
            raise refuse(self._attributes, message)
        delta = {key: self._usage.get(key, ZERO) - self._before.get(key, ZERO) for key in limited}
        delta = {key: amount for key, amount in delta.items() if not amount.is_zero()}
        used = {key: Quantity.parse(known[key]) for key in delta}
        over = sorted(key for key, amount in delta.items() if amount > ZERO and used[key] + amount > limited[key])
        if over:
            requested, taken = _shown(delta, over), _shown(used, over)
            message = f"exceeded quota: {name}, requested: {requested}, used: {taken}, limited: {_shown(limited, over)}"
            raise refuse(self._attributes, message)
        return delta


def _shown(amounts: Mapping[str, Quantity], names: Iterable[str]) -> str:
    return ",".join(f"{name}={amounts[name]}" for name in names)


_BARE: Final = frozenset({"cpu", "memory", "ephemeral-storage"})
