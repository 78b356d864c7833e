"""What an API server does once it can write: makes the objects every cluster has, and mends its own roles.

Roles and bindings that are marked for it (autoupdate) get back rules and subjects that are missing;
what an administrator added stays. https://kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tiphys.apiserver.authz.rules import PolicyRule, uncovered
from tiphys.apiserver.bootstrap import flowcontrol, objects
from tiphys.apiserver.bootstrap.policy import RBAC, bootstrap_objects
from tiphys.apiserver.bootstrap.writer import Object, Writer
from tiphys.apiserver.options import ServerOptions
from tiphys.base.clock import Clock
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.time import format_time

AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
NETWORKING: Final = "networking.k8s.io"
KEEP_PERIOD: Final = 10.0  # seconds, as upstream's controller of the Service `kubernetes`
PLURALS: Final = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What of this cluster goes into the objects."""

    service_cidr: str
    service_address: str  # of the kubernetes Service: the first of the range
    advertise_address: str
    port: int
    authentication: Mapping[str, str] = field(default_factory=dict)


def authentication_data(options: ServerOptions) -> dict[str, str]:
    """What extension servers have to know to trust the aggregator and our clients."""
    data = {}
    if options.client_ca is not None:
        data["client-ca-file"] = options.client_ca.read_text()
    if options.requestheader_ca is not None:
        names = ",".join(f'"{name}"' for name in options.requestheader_names)
        data |= {
            "requestheader-allowed-names": f"[{names}]",
            "requestheader-client-ca-file": options.requestheader_ca.read_text(),
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-username-headers": '["X-Remote-User"]',
        }
    return data


async def reconcile(writer: Writer, facts: ClusterFacts, now: Callable[[], datetime]) -> None:
    """Make what is missing. Safe to run at every start, and by several servers at once."""
    await asyncio.gather(*(writer.ensure("", "v1", "namespaces", item) for item in objects.namespaces()))
    await _reconcile_service_cidr(writer, facts.service_cidr, now())
    work = [_reconcile_role(writer, item) for item in bootstrap_objects()]
    work += [writer.ensure("scheduling.k8s.io", "v1", "priorityclasses", item) for item in objects.priority_classes()]
    work += [
        writer.ensure(flowcontrol.GROUP, "v1", "prioritylevelconfigurations", item, flowcontrol.MANAGER)
        for item in flowcontrol.levels()
    ]
    work += [
        writer.ensure(flowcontrol.GROUP, "v1", "flowschemas", item, flowcontrol.MANAGER)
        for item in flowcontrol.schemas()
    ]
    work += [writer.ensure("apiregistration.k8s.io", "v1", "apiservices", item) for item in objects.api_services()]
    work.append(_reconcile_authentication(writer, facts.authentication))
    work.append(writer.ensure("", "v1", "configmaps", objects.token_tracking_config_map(now())))
    work.append(reconcile_kubernetes_service(writer, facts))
    await asyncio.gather(*work)


async def _reconcile_service_cidr(writer: Writer, cidr: str, now: datetime) -> None:
    """The default range, ready from the start: no controller need run for Services to get addresses."""
    wanted = objects.service_cidr(cidr)
    name = wanted["metadata"]["name"]
    await writer.ensure(NETWORKING, "v1", "servicecidrs", wanted)
    there = writer.get(NETWORKING, "servicecidrs", "", name)
    conditions = ((there or {}).get("status") or {}).get("conditions") or ()
    if any(each.get("type") == "Ready" for each in conditions):
        return
    ready = {
        "type": "Ready",
        "status": "True",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": format_time(now),
    }
    with suppress(NotFoundError):
        await writer.apply_status(
            NETWORKING, "v1", "servicecidrs", name, {"conditions": [ready]}, "kubernetes-service-cidr-controller"
        )


async def keep(writer: Writer, facts: ClusterFacts, clock: Clock) -> None:
    """Put the system's namespaces and the Service `kubernetes` back when somebody deletes them. Never returns."""
    while True:
        await clock.sleep(KEEP_PERIOD)
        await asyncio.gather(*(writer.ensure("", "v1", "namespaces", item) for item in objects.namespaces()))
        await reconcile_kubernetes_service(writer, facts)


async def reconcile_kubernetes_service(writer: Writer, facts: ClusterFacts) -> None:
    """The Service `kubernetes` and where it leads; corrected when the server's address has changed."""
    address, port = facts.advertise_address, facts.port
    await writer.ensure("", "v1", "services", objects.kubernetes_service(facts.service_address, port))
    endpoints = objects.kubernetes_endpoints(address, port)
    if not await _same(writer, "", "endpoints", endpoints, "subsets"):
        await _set(writer, "", "v1", "endpoints", endpoints, "subsets")
    endpoint_slice = objects.kubernetes_slice(address, port)
    for key in ("endpoints", "ports"):
        if not await _same(writer, "discovery.k8s.io", "endpointslices", endpoint_slice, key):
            await _set(writer, "discovery.k8s.io", "v1", "endpointslices", endpoint_slice, key)


async def _reconcile_authentication(writer: Writer, data: Mapping[str, str]) -> None:
    if not data:
        return
    wanted = objects.authentication_config_map(data)
    if not await _same(writer, "", "configmaps", wanted, "data"):
        await _set(writer, "", "v1", "configmaps", wanted, "data")


async def _same(writer: Writer, group: str, plural: str, wanted: Object, key: str) -> bool:
    metadata = wanted["metadata"]
    found = writer.get(group, plural, metadata.get("namespace", ""), metadata["name"])
    return found is not None and found.get(key) == wanted[key]


async def _set(writer: Writer, group: str, version: str, plural: str, wanted: Object, key: str) -> None:
    """Create `wanted`, or set one of its fields in what is there."""
    metadata = wanted["metadata"]
    if await writer.create(group, version, plural, wanted):
        return
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    await writer.update(group, version, plural, namespace, name, lambda obj: obj.update({key: wanted[key]}))


async def _reconcile_role(writer: Writer, wanted: Object) -> None:
    plural, metadata = PLURALS[wanted["kind"]], wanted["metadata"]
    namespace, name = metadata.get("namespace", ""), metadata["name"]
    found = writer.get(RBAC, plural, namespace, name)
    if found is None:
        await writer.create(RBAC, "v1", plural, wanted)
        return
    if (found["metadata"].get("annotations") or {}).get(AUTOUPDATE) != "true":
        return
    key, missing = _missing(wanted, found)
    if missing:

        def add(obj: Object) -> None:
            obj[key] = [*(obj.get(key) or ()), *missing]

        await writer.update(RBAC, "v1", plural, namespace, name, add)


def _missing(wanted: Object, found: Object) -> tuple[str, list[Any]]:
    """Rules or subjects that `found` lacks."""
    if "roleRef" in wanted:
        have = found.get("subjects") or []
        return "subjects", [subject for subject in wanted.get("subjects") or () if subject not in have]
    if "aggregationRule" in wanted:
        return "rules", []  # gathered by a controller
    owned = [PolicyRule.from_json(rule) for rule in found.get("rules") or ()]
    rules = [PolicyRule.from_json(rule) for rule in wanted.get("rules") or ()]
    return "rules", [piece.to_json() for piece in uncovered(rules, owned)]
