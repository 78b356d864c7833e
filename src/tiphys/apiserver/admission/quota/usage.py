"""How much of a quota an object uses: from the object alone, by the names a quota may limit.

    every object                 count/RESOURCE[.GROUP], and for some kinds their old name ("configmaps")
    pods                         pods, cpu, memory, …, requests.X, limits.X: while they run
    services                     services, services.nodeports, services.loadbalancers
    persistentvolumeclaims       requests.storage, and both by storage class

https://kubernetes.io/docs/concepts/policy/resource-quotas/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tiphys.machinery.quantity import Quantity

Object = Mapping[str, Any]
Usage = dict[str, Quantity]
ONE: Final = Quantity.of(1)
ZERO: Final = Quantity.of(0)
# Kinds that may be counted by their bare name.
COUNTED: Final = frozenset(
    {"configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets", "services"}
)
# What a quota on it obliges every container to say.
MUST_BE_SAID: Final = frozenset({"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"})
_COMPUTE: Final = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES: Final = "hugepages-"
BY_CLASS: Final = ".storageclass.storage.k8s.io/"


def usage_of(group: str, resource: str, obj: Object) -> Usage:
    """What an object uses, by name; quantities are not negative."""
    counted: Usage = {f"count/{resource}.{group}" if group else f"count/{resource}": ONE}
    if group:
        return counted
    match resource:
        case "pods":
            return counted if is_finished(obj) else counted | {"pods": ONE} | compute_usage(*pod_resources(obj))
        case "services":
            return counted | _service(obj.get("spec") or {})
        case "persistentvolumeclaims":
            return counted | _claim(obj)
        case name if name in COUNTED:
            counted[name] = ONE
    return counted


def is_finished(pod: Object) -> bool:
    """Pods that have ended use nothing but their place in the store."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


# --- pods -----------------------------------------------------------------------------------------
def compute_usage(requests: Usage, limits: Usage) -> Usage:
    """Requests and limits under the names of quotas."""
    found: Usage = {}
    for name, amount in requests.items():
        if name in _COMPUTE or name.startswith(HUGE_PAGES):
            found[name] = found[f"requests.{name}"] = amount
        elif "/" in name:  # an extended resource is limited by its requests alone
            found[f"requests.{name}"] = amount
    for name, amount in limits.items():
        if name in _COMPUTE:
            found[f"limits.{name}"] = amount
    return found


def pod_resources(pod: Object) -> tuple[Usage, Usage]:
    """Requests and limits of a pod as a whole: what its node sets aside for it, with overhead."""
    spec = pod.get("spec") or {}
    found = []
    for part in ("requests", "limits"):
        total = _total(spec, part)
        # What the pod says as a whole counts instead of the sum.
        total |= _quantities((spec.get("resources") or {}).get(part) or {})
        for name, amount in _quantities(spec.get("overhead") or {}).items():
            if part == "requests" or name in total:
                total[name] = total.get(name, ZERO) + amount
        found.append(total)
    return found[0], found[1]


def _total(spec: Object, part: str) -> Usage:
    """The sum of containers and sidecars, or what an init container needs beside the sidecars before it."""
    total: Usage = {}
    for container in spec.get("containers") or ():
        add(total, container_part(container, part))
    sidecars: Usage = {}
    highest: Usage = {}
    for container in spec.get("initContainers") or ():
        own = container_part(container, part)
        if container.get("restartPolicy") == "Always":
            add(sidecars, own)
            add(total, own)
            own = {}
        needed = dict(sidecars)
        add(needed, own)
        _raise_to(highest, needed)
    _raise_to(total, highest)
    return total


def container_part(container: Object, part: str) -> Usage:
    """Requests or limits of one container."""
    return _quantities((container.get("resources") or {}).get(part) or {})


def _quantities(texts: Mapping[str, Any]) -> Usage:
    return {name: Quantity.parse(text) for name, text in texts.items()}


def add(total: Usage, part: Mapping[str, Quantity]) -> None:
    """Add `part` to `total` in place."""
    for name, amount in part.items():
        total[name] = total[name] + amount if name in total else amount


def _raise_to(total: Usage, floor: Usage) -> None:
    for name, amount in floor.items():
        if name not in total or total[name] < amount:
            total[name] = amount


def unsaid(pod: Object, required: Iterable[str]) -> dict[str, list[str]]:
    """For each name a quota limits, the containers that say nothing about it."""
    wanted = MUST_BE_SAID.intersection(required)
    spec = pod.get("spec") or {}
    whole = spec.get("resources") or {}
    wanted -= set(compute_usage(_quantities(whole.get("requests") or {}), _quantities(whole.get("limits") or {})))
    missing: dict[str, list[str]] = {}
    for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        said = compute_usage(container_part(container, "requests"), container_part(container, "limits"))
        for name in wanted - said.keys():
            missing.setdefault(name, []).append(container.get("name", ""))
    return {name: sorted(missing[name]) for name in sorted(missing)}


# --- services and claims --------------------------------------------------------------------------
def _service(spec: Object) -> Usage:
    kind, ports = spec.get("type"), spec.get("ports") or ()
    node_ports = 0
    if kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False):
        node_ports = len(ports)
    elif kind == "LoadBalancer":
        node_ports = sum(1 for port in ports if port.get("nodePort"))
    return {
        "services": ONE,
        "services.nodeports": Quantity.of(node_ports),
        "services.loadbalancers": ONE if kind == "LoadBalancer" else ZERO,
    }


def _claim(claim: Object) -> Usage:
    spec = claim.get("spec") or {}
    found = {"persistentvolumeclaims": ONE}
    annotations = (claim.get("metadata") or {}).get("annotations") or {}
    name = annotations.get("volume.beta.kubernetes.io/storage-class") or spec.get("storageClassName") or ""
    if name:
        found[f"{name}{BY_CLASS}persistentvolumeclaims"] = ONE
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if asked is not None:
        amount = Quantity.parse(asked)
        # While a volume grows, what it will have counts; when growing has failed, what it has.
        allocated = ((claim.get("status") or {}).get("allocatedResources") or {}).get("storage")
        if allocated is not None and Quantity.parse(allocated) > amount:
            amount = Quantity.parse(allocated)
        found["requests.storage"] = amount
        if name:
            found[f"{name}{BY_CLASS}requests.storage"] = amount
    return found
