"""The downward API: values of a pod's fields and of its containers' resources.

https://kubernetes.io/docs/concepts/workloads/pods/downward-api/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tiphys.api.core.v1 import ObjectFieldSelector, Pod, ResourceFieldSelector
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.pod import AnyContainer, container_named
from tiphys.machinery.quantity import Quantity

_SUBSCRIPT: Final = re.compile(r"^(metadata\.(?:labels|annotations))\['(.*)'\]$")


def field_value(pod: Pod, selector: ObjectFieldSelector, pod_ips: Sequence[str], host_ips: Sequence[str]) -> str:
    """The text of a fieldRef. Raises ConfigError for a path there is not."""
    path = selector.field_path
    if match := _SUBSCRIPT.match(path):
        source = pod.metadata.labels if match.group(1) == "metadata.labels" else pod.metadata.annotations
        return source.get(match.group(2), "")
    match path:
        case "metadata.name":
            return pod.metadata.name
        case "metadata.namespace":
            return pod.metadata.namespace
        case "metadata.uid":
            return pod.metadata.uid
        case "metadata.labels":
            return format_map(pod.metadata.labels)
        case "metadata.annotations":
            return format_map(pod.metadata.annotations)
        case "spec.nodeName":
            return pod.spec.node_name
        case "spec.serviceAccountName":
            return pod.spec.service_account_name
        case "status.hostIP":
            return host_ips[0] if host_ips else ""
        case "status.hostIPs":
            return ",".join(host_ips)
        case "status.podIP":
            return pod_ips[0] if pod_ips else ""
        case "status.podIPs":
            return ",".join(pod_ips)
    raise ConfigError(f"unsupported fieldPath: {path}")


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as a file: `key="value"` lines, sorted, values quoted as Go quotes them."""
    return "\n".join(f"{key}={_quote(value)}" for key, value in sorted(values.items()))


def resource_value(
    pod: Pod, container: AnyContainer, selector: ResourceFieldSelector, allocatable: Mapping[str, str]
) -> str:
    """The number of a resourceFieldRef in units of its divisor, rounded up.

    A limit that is not set reads as the pod's own, or else as what the node can give at most.
    """
    target = container_named(pod, selector.container_name) if selector.container_name else container
    if target is None:
        raise ConfigError(f"container {selector.container_name} not found")
    kind, _, resource = selector.resource.partition(".")
    if kind not in ("requests", "limits"):
        raise ConfigError(f"unsupported container resource : {selector.resource}")
    amount = _amount(pod, target, kind, resource, allocatable)
    divisor = Quantity.parse(selector.divisor or "1")
    if divisor == Quantity.parse("0"):
        divisor = Quantity.parse("1")
    if resource == "cpu":
        return str(-(-amount.milli_value() // divisor.milli_value()))
    return str(-(-amount.value() // divisor.value()))


def _amount(pod: Pod, target: AnyContainer, kind: str, resource: str, allocatable: Mapping[str, str]) -> Quantity:
    resources = target.resources
    limit = resources.limits.get(resource) if resources else None
    request = resources.requests.get(resource) if resources else None
    if kind == "limits":
        whole = pod.spec.resources.limits.get(resource) if pod.spec.resources else None
        return Quantity.parse(limit or whole or allocatable.get(resource, "0"))
    return Quantity.parse(request or limit or "0")


def _quote(value: str) -> str:
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(special.get(char, char) for char in value) + '"'
