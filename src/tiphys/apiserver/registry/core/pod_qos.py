"""The quality of service class of a pod.

https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tiphys.machinery.quantity import Quantity

Json = Mapping[str, Any]

COMPUTE: Final = ("cpu", "memory")


def qos_class(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory alone; pod-level resources decide where they are set."""
    resources = spec.get("resources")
    if resources and (resources.get("requests") or resources.get("limits")):
        return _class_of([resources])
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    return _class_of([container.get("resources") or {} for container in containers])


def _class_of(all_resources: list[Json]) -> str:
    guaranteed, anything = True, False
    for resources in all_resources:
        requests = _positive(resources.get("requests"))
        limits = _positive(resources.get("limits"))
        anything = anything or bool(requests or limits)
        if len(limits) != len(COMPUTE) or any(requests.get(name, limit) != limit for name, limit in limits.items()):
            guaranteed = False
    if not anything:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _positive(quantities: Mapping[str, str] | None) -> dict[str, Quantity]:
    found = {name: Quantity.parse(quantities[name]) for name in COMPUTE if name in quantities} if quantities else {}
    return {name: quantity for name, quantity in found.items() if quantity > Quantity.parse("0")}
