"""PodResizeValidator: no pod is resized to more than its node has, nor on a node that cannot resize.

Without it the node would find out, and say so in a condition of the pod.
https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import UPDATE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.apiserver.admission.quota.usage import pod_resources
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName
from tiphys.machinery.quantity import Quantity

OS_LABEL: Final = "kubernetes.io/os"
LINUX: Final = "linux"
NONE: Final = Quantity.of(0)


class PodResizeValidator(AdmissionPlugin):
    """Judges new resources of a pod that has a node by the operating system and the allocatable of the node."""

    name = "PodResizeValidator"
    operations = UPDATE
    resources = frozenset({("", "pods/resize")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        pod, old = attributes.object or {}, attributes.old_object or {}
        node_name = (pod.get("spec") or {}).get("nodeName") or ""
        if not node_name or _all_resources(pod) == _all_resources(old):
            return
        node = self.reader.get("", "nodes", ObjectName("", node_name))
        if node is None:
            raise refuse(attributes, f'node "{node_name}" not found')
        system = ((node.get("metadata") or {}).get("labels") or {}).get(OS_LABEL, LINUX)
        if system != LINUX:
            message = f'pod resize is only supported on linux nodes, node "{node_name}" is "{system}"'
            raise _refused(attributes, message, "UnsupportedPlatform")
        missing = beyond(pod, (node.get("status") or {}).get("allocatable") or {})
        if missing:
            message = f"node didn't have enough allocatable resources: {'; '.join(missing)}"
            raise _refused(attributes, message, "NodeCapacity")


def beyond(pod: Object, allocatable: Object) -> list[str]:
    """What of a pod's requests is more than a node has to give: cpu in thousandths, memory in bytes."""
    requests = pod_resources(pod)[0]
    found = []
    for name in ("cpu", "memory"):
        wanted, given = requests.get(name, NONE), Quantity.parse(allocatable.get(name) or 0)
        if name == "cpu":
            asked, there = wanted.milli_value(), given.milli_value()
        else:
            asked, there = wanted.value(), given.value()
        if asked > there:
            found.append(f"{name}, requested: {asked}, allocatable: {there}")
    return found


def _all_resources(pod: Object) -> list[Object]:
    spec = pod.get("spec") or {}
    owners = [spec, *(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return [owner.get("resources") or {} for owner in owners]


def _refused(attributes: AdmissionAttributes, message: str, cause: str) -> StatusError:
    """A 403 whose cause programs can tell apart."""
    error = refuse(attributes, message)
    error.status["details"]["causes"] = [{"reason": cause}]
    return error
