"""APIServices as the aggregator sees them, and the order in which discovery lists what they register.

A group stands where the highest groupPriorityMinimum of its versions puts it, ties by name; its versions by their
versionPriority, ties as Kubernetes versions compare (v2, v1, v1beta1, …).
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/api-service-v1/
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tiphys.machinery.meta import version_priority

GROUP: Final = "apiregistration.k8s.io"
PLURAL: Final = "apiservices"
AVAILABLE: Final = "Available"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServiceReference:
    """The Service an extension server is behind."""

    namespace: str
    name: str
    port: int

    @property
    def server_name(self) -> str:
        """What the server's certificate has to be for."""
        return f"{self.name}.{self.namespace}.svc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One APIService. `service` None: this server answers itself."""

    name: str
    uid: str
    group: str
    version: str
    group_priority: int
    version_priority: int
    service: ServiceReference | None = None
    ca_bundle: str = ""  # PEM; "" is what the machine trusts
    insecure: bool = False
    available: bool = False

    @classmethod
    def of(cls, obj: Object) -> Registration:
        """Read an APIService."""
        spec, metadata = obj["spec"], obj["metadata"]
        service = spec.get("service")
        reference = None
        if service is not None:
            reference = ServiceReference(service["namespace"], service["name"], service.get("port") or 443)
        found = available_condition(obj)
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            group=spec.get("group") or "",
            version=spec["version"],
            group_priority=spec.get("groupPriorityMinimum") or 0,
            version_priority=spec.get("versionPriority") or 0,
            service=reference,
            ca_bundle=base64.b64decode(spec.get("caBundle") or "").decode(errors="replace"),
            insecure=bool(spec.get("insecureSkipTLSVerify")),
            available=found is not None and found.get("status") == "True",
        )

    @property
    def path(self) -> str:
        """Where its resources are."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def backend(self) -> tuple[ServiceReference | None, str, bool]:
        """What has to stay the same for answers of its server to stay valid."""
        return self.service, self.ca_bundle, self.insecure


def available_condition(obj: Object) -> Object | None:
    """The condition Available of an APIService; None without one."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == AVAILABLE), None)


def by_priority(registrations: Iterable[Registration]) -> list[tuple[str, list[str]]]:
    """Groups (the core one is "") with their versions, both in the order of discovery."""
    groups: dict[str, list[Registration]] = {}
    for one in registrations:
        groups.setdefault(one.group, []).append(one)
    ordered = sorted(groups, key=lambda name: (-max(one.group_priority for one in groups[name]), name))
    return [(name, [one.version for one in sorted(groups[name], key=_version_order)]) for name in ordered]


def _version_order(one: Registration) -> tuple[int, tuple[int, int, int, str]]:
    return -one.version_priority, version_priority(one.version)
