"""Services: defaults, what depends on the type, and the addresses and ports they are given.

https://kubernetes.io/docs/concepts/services-networking/service/
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from tiphys.api.table import Resource
from tiphys.apiserver.registry.core.service_allocation import ServiceAllocation
from tiphys.apiserver.registry.core.service_fields import (
    drop_type_dependent_fields,
    needs_cluster_ip,
    normalize_cluster_ips,
    patch_allocated_values,
)
from tiphys.apiserver.registry.core.service_table import service_row
from tiphys.apiserver.registry.core.service_validation import (
    validate_service,
    validate_service_status,
    validate_service_update,
)
from tiphys.apiserver.registry.core.service_warnings import service_warnings
from tiphys.apiserver.registry.kinds import TableStrategy, spec_of
from tiphys.apiserver.registry.strategy import Cell, Finish, NameRule, Object, RequestContext
from tiphys.machinery.field import FieldError

CLIENT_IP_SECONDS = 10800


class ServiceStrategy(TableStrategy):
    """Rules of services. `allocation` is set when the server is put together; without it nothing is allocated."""

    # Checked by validate: a label, in words of its own.
    name_rule: ClassVar[NameRule] = NameRule.ANY
    allow_create_on_update: ClassVar[bool] = True

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self.allocation: ServiceAllocation | None = None

    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("type"):
            spec["type"] = "ClusterIP"
        _default_affinity(spec)
        for port in spec.get("ports") or ():
            if not port.get("protocol"):
                port["protocol"] = "TCP"
            if port.get("targetPort") in (None, 0, ""):
                port["targetPort"] = port.get("port", 0)
        kind = spec["type"]
        external = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(spec.get("externalIPs")))
        if external and not spec.get("externalTrafficPolicy"):
            spec["externalTrafficPolicy"] = "Cluster"
        if kind in ("ClusterIP", "NodePort", "LoadBalancer") and spec.get("internalTrafficPolicy") is None:
            spec["internalTrafficPolicy"] = "Cluster"
        if kind == "LoadBalancer":
            if spec.get("allocateLoadBalancerNodePorts") is None:
                spec["allocateLoadBalancerNodePorts"] = True
            _default_ingress_mode(obj)

    def prepare_for_create(self, ctx: RequestContext, obj: Object) -> None:
        obj["status"] = {"loadBalancer": {}}
        normalize_cluster_ips(spec_of(obj), None)
        if self.allocation and not obj["metadata"].get("name") and needs_cluster_ip(spec_of(obj)):
            raise self.allocation.nameless(obj)

    def validate(self, obj: Object) -> list[FieldError]:
        return validate_service(obj)

    async def begin_create(self, ctx: RequestContext, obj: Object) -> Finish | None:
        return await self.allocation.on_create(obj, ctx.dry_run) if self.allocation else None

    def prepare_for_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_update(ctx, new, old)
        spec, known = spec_of(new), spec_of(old)
        drop_type_dependent_fields(spec, known)
        patch_allocated_values(spec, known)
        normalize_cluster_ips(spec, known)

    def validate_update(self, new: Object, old: Object) -> list[FieldError]:
        return validate_service_update(new, old)

    async def begin_update(self, ctx: RequestContext, new: Object, old: Object) -> Finish | None:
        return await self.allocation.on_update(new, old, ctx.dry_run) if self.allocation else None

    def after_delete(self, ctx: RequestContext, obj: Object) -> None:
        if self.allocation and not ctx.dry_run:
            self.allocation.on_delete(obj)

    def validate_status_update(self, new: Object, old: Object) -> list[FieldError]:
        return validate_service_status(new)

    def prepare_for_status_update(self, ctx: RequestContext, new: Object, old: Object) -> None:
        super().prepare_for_status_update(ctx, new, old)
        if spec_of(new).get("type") == "LoadBalancer":
            _default_ingress_mode(new)

    def warnings(self, obj: Object, old: Object | None) -> list[str]:
        return service_warnings(obj, old)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = spec_of(obj)
        cluster_ip = {"spec.clusterIP": spec.get("clusterIP") or "", "spec.type": spec.get("type") or ""}
        return super().selectable_fields(obj) | cluster_ip

    def row(self, obj: Object, now: datetime) -> Sequence[Cell]:
        return service_row(obj, now)


def _default_affinity(spec: Object) -> None:
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}) or {}
        client = config.setdefault("clientIP", {}) or {}
        if client.get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}}


def _default_ingress_mode(obj: Object) -> None:
    """An address a load balancer gave is taken by the nodes, unless it says otherwise."""
    for one in ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
        if one.get("ip") and one.get("ipMode") is None:
            one["ipMode"] = "VIP"
