"""Small plug-ins about pods: their priority, their tolerations, their runtime class.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from __future__ import annotations

from typing import Final

from tiphys.apiserver.admission.base import CREATE, WRITE, AdmissionPlugin, Object, name_of, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery.errors import plain_error
from tiphys.machinery.meta import ObjectName

PODS: Final = frozenset({("", "pods")})
SCHEDULING: Final = "scheduling.k8s.io"
# The two classes every cluster has, known before they are stored.
SYSTEM_CLASSES: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
TOLERATION_SECONDS: Final = 300
TOPOLOGY_LABELS: Final = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


class Priority(AdmissionPlugin):
    """Resolves a pod's priority class to its number; allows one default class."""

    name = "Priority"
    operations = WRITE
    resources = PODS | {(SCHEDULING, "priorityclasses")}

    async def admit(self, attributes: AdmissionAttributes) -> None:
        pod = attributes.object
        if pod is None or attributes.resource.resource != "pods":
            return
        spec = pod.setdefault("spec", {})
        if attributes.operation is Operation.UPDATE:
            old = (attributes.old_object or {}).get("spec", {})
            # Clients that know nothing of priorities send pods back without them.
            for key in ("priority", "preemptionPolicy"):
                if spec.get(key) is None and old.get(key) is not None:
                    spec[key] = old[key]
            return
        self._set(attributes, spec)

    def _set(self, attributes: AdmissionAttributes, spec: Object) -> None:
        name = spec.get("priorityClassName", "")
        if name:
            found = self.reader.get(SCHEDULING, "priorityclasses", ObjectName("", name))
            if found is None:
                raise refuse(attributes, f"no PriorityClass with name {name} was found")
        else:
            found = self._default_class()
            if found is not None:
                spec["priorityClassName"] = found["metadata"]["name"]
        value = found.get("value", 0) if found is not None else 0
        policy = (found or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        if spec.get("priority") is not None and spec["priority"] != value:
            raise refuse(
                attributes,
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
                f"priority admission controller computed {value} from the given PriorityClass name",
            )
        if spec.get("preemptionPolicy") is not None and spec["preemptionPolicy"] != policy:
            raise refuse(
                attributes,
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; "
                f"priority admission controller computed {policy} from the given PriorityClass name",
            )
        spec["priority"], spec["preemptionPolicy"] = value, policy

    def _default_class(self) -> Object | None:
        classes = [item for item in self.reader.list(SCHEDULING, "priorityclasses") if item.get("globalDefault")]
        # There may be two after a race; the lower one is the safer.
        return min(classes, key=lambda item: item.get("value", 0), default=None)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        found = attributes.object
        if found is None or attributes.resource.resource != "priorityclasses" or not found.get("globalDefault"):
            return
        other = self._default_class()
        if other is not None and other["metadata"]["name"] != name_of(attributes):
            raise refuse(
                attributes,
                f"PriorityClass {other['metadata']['name']} is already marked as default. Only one default can exist",
            )


class DefaultTolerationSeconds(AdmissionPlugin):
    """A pod stays for five minutes on a node that has become unreachable or not ready, unless it says otherwise."""

    name = "DefaultTolerationSeconds"
    operations = WRITE
    resources = PODS

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None:
            return
        spec = attributes.object.setdefault("spec", {})
        tolerations = spec.get("tolerations") or []
        missing = [key for key in (NOT_READY, UNREACHABLE) if not any(_tolerates(item, key) for item in tolerations)]
        if missing:
            spec["tolerations"] = tolerations + [
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS}
                for key in missing
            ]


def _tolerates(toleration: Object, key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


class TaintNodesByCondition(AdmissionPlugin):
    """A new node takes no pods until it has said that it is ready."""

    name = "TaintNodesByCondition"
    operations = CREATE
    resources = frozenset({("", "nodes")})

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None:
            return
        spec = attributes.object.setdefault("spec", {})
        taints = spec.get("taints") or []
        if not any(taint.get("key") == NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
            spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]


class RuntimeClass(AdmissionPlugin):
    """A pod gets the overhead and the scheduling constraints of its runtime class."""

    name = "RuntimeClass"
    operations = CREATE
    resources = PODS

    def _class_of(self, attributes: AdmissionAttributes, spec: Object) -> Object | None:
        name = spec.get("runtimeClassName")
        if name is None:
            return None
        if not name:  # the name is looked up before it is judged
            raise plain_error("resource name may not be empty")
        found = self.reader.get("node.k8s.io", "runtimeclasses", ObjectName("", name))
        if found is None:
            raise refuse(attributes, f'pod rejected: RuntimeClass "{name}" not found')
        return found

    async def admit(self, attributes: AdmissionAttributes) -> None:
        spec = (attributes.object or {}).setdefault("spec", {})
        found = self._class_of(attributes, spec)
        if found is None:
            return
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead:
            if spec.get("overhead") and spec["overhead"] != overhead:
                raise refuse(attributes, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            spec["overhead"] = dict(overhead)
        scheduling = found.get("scheduling") or {}
        selector = spec.get("nodeSelector") or {}
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if selector.get(key, value) != value:
                raise refuse(
                    attributes,
                    f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                    f"pod.spec.nodeSelector[{key}] = {selector[key]}",
                )
            selector[key] = value
        if selector:
            spec["nodeSelector"] = selector
        tolerations = spec.get("tolerations") or []
        for toleration in scheduling.get("tolerations") or ():
            if toleration not in tolerations:
                tolerations.append(dict(toleration))
        if tolerations:
            spec["tolerations"] = tolerations

    async def validate(self, attributes: AdmissionAttributes) -> None:
        spec = (attributes.object or {}).get("spec", {})
        found = self._class_of(attributes, spec)
        overhead = ((found or {}).get("overhead") or {}).get("podFixed")
        if spec.get("overhead") is not None and not overhead:
            raise refuse(
                attributes, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
            )


class PodTopologyLabels(AdmissionPlugin):
    """A pod gets the zone and the region of its node as labels, when it is bound to it.

    https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#podtopologylabels
    """

    name = "PodTopologyLabels"
    operations = CREATE
    resources = PODS | {("", "pods/binding")}

    async def admit(self, attributes: AdmissionAttributes) -> None:
        obj = attributes.object
        if obj is None:
            return
        if attributes.subresource:
            target = obj.get("target") or {}
            name = target.get("name") if target.get("kind") in (None, "", "Node") else None
        else:
            name = (obj.get("spec") or {}).get("nodeName")
        node = self.reader.get("", "nodes", ObjectName("", name)) if name else None
        known = ((node or {}).get("metadata") or {}).get("labels") or {}
        found = {label: known[label] for label in TOPOLOGY_LABELS if label in known}
        if found:
            metadata = obj.setdefault("metadata", {})
            metadata["labels"] = {**(metadata.get("labels") or {}), **found}
