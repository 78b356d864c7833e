"""Where the pods of a namespace may run: node selectors and tolerations that the namespace's annotations give.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#podnodeselector
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from tiphys.apiserver.admission.base import CREATE, WRITE, AdmissionParts, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery.errors import StatusError, not_found
from tiphys.machinery.meta import GroupResource, ObjectName
from tiphys.machinery.selectors import LabelSelector

PODS: Final = frozenset({("", "pods")})
SELECTOR: Final = "scheduler.alpha.kubernetes.io/node-selector"
DEFAULTS: Final = "scheduler.alpha.kubernetes.io/defaultTolerations"
WHITELIST: Final = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
MEMORY_PRESSURE: Final = "node.kubernetes.io/memory-pressure"
Labels = Mapping[str, str]


def _annotations(plugin: AdmissionPlugin, attributes: AdmissionAttributes) -> Labels:
    found = plugin.reader.get("", "namespaces", ObjectName("", attributes.namespace))
    if found is None:
        raise not_found(GroupResource("", "namespaces"), attributes.namespace)
    return found["metadata"].get("annotations") or {}


def _labels(text: str) -> Labels:
    """`a=b,c=d`. ValueError for anything else."""
    found = {}
    for one in LabelSelector.parse(text).requirements:
        if one.operator not in ("=", "=="):
            raise ValueError(f"invalid selector: [{text}]")
        found[one.key] = one.values[0]
    return found


def _conflict(one: Labels, other: Labels) -> bool:
    return any(key in other and other[key] != value for key, value in one.items())


class PodNodeSelector(AdmissionPlugin):
    """A pod gets the node selector of its namespace, or the cluster's, and none that its namespace does not allow."""

    name = "PodNodeSelector"
    operations = CREATE
    resources = PODS

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        document = parts.configuration.get(self.name) or {}
        self._selectors: Mapping[str, str] = document.get("podNodeSelectorPluginConfig") or {}

    def _of_namespace(self, attributes: AdmissionAttributes) -> Labels:
        annotations = _annotations(self, attributes)
        try:
            if SELECTOR in annotations:
                return _labels(annotations[SELECTOR])
            return _labels(self._selectors.get("clusterDefaultNodeSelector") or "")
        except ValueError as error:
            raise _bare(str(error)) from None

    async def admit(self, attributes: AdmissionAttributes) -> None:
        wanted = self._of_namespace(attributes)
        spec: Object = (attributes.object or {}).setdefault("spec", {})
        own = spec.get("nodeSelector") or {}
        if _conflict(wanted, own):
            raise refuse(attributes, "pod node label selector conflicts with its namespace node label selector")
        if wanted:
            spec["nodeSelector"] = {**own, **wanted}
        await self.validate(attributes)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        wanted = self._of_namespace(attributes)
        own = ((attributes.object or {}).get("spec") or {}).get("nodeSelector") or {}
        if _conflict(wanted, own):
            raise refuse(attributes, "pod node label selector conflicts with its namespace node label selector")
        allowed = _labels(self._selectors.get(attributes.namespace) or "")
        if allowed and not all(allowed.get(key) == value for key, value in own.items()):
            raise refuse(attributes, "pod node label selector labels conflict with its namespace whitelist")


class PodTolerationRestriction(AdmissionPlugin):
    """A pod gets the tolerations of its namespace, or the cluster's, and none that they do not allow."""

    name = "PodTolerationRestriction"
    operations = WRITE
    resources = PODS

    def __init__(self, parts: AdmissionParts) -> None:
        super().__init__(parts)
        document = parts.configuration.get(self.name) or {}
        self._default: Sequence[Object] = document.get("default") or ()
        self._allowed: Sequence[Object] = document.get("whitelist") or ()

    def _given(self, attributes: AdmissionAttributes, annotation: str, otherwise: Sequence[Object]) -> list[Any]:
        text = _annotations(self, attributes).get(annotation)
        if text is None:
            return list(otherwise)
        try:
            return list(orjson.loads(text) or ()) if text else []
        except ValueError as error:
            raise _bare(str(error)) from None

    async def admit(self, attributes: AdmissionAttributes) -> None:
        spec: Object = (attributes.object or {}).setdefault("spec", {})
        tolerations = list(spec.get("tolerations") or ())
        if attributes.operation is Operation.CREATE:
            tolerations = _merged([*tolerations, *self._given(attributes, DEFAULTS, self._default)])
        if _has_requests(spec) and not any(one.get("key") == MEMORY_PRESSURE for one in tolerations):
            tolerations.append({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"})
        if tolerations:
            spec["tolerations"] = tolerations
        await self.validate(attributes)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        tolerations = ((attributes.object or {}).get("spec") or {}).get("tolerations") or ()
        allowed = self._given(attributes, WHITELIST, self._allowed)
        if allowed and not all(any(_within(one, other) for other in allowed) for one in tolerations):
            raise _bare(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace "
                "whitelist"
            )


def _bare(message: str) -> StatusError:
    """What clients have always been told here: 500, without a reason."""
    return StatusError.from_status(
        {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": 500}
    )


def _merged(tolerations: Sequence[Object]) -> list[Object]:
    """Without those that another one covers; of equal ones the first stays."""
    found: list[Object] = []
    for index, one in enumerate(tolerations):
        covered = any(
            at != index and _within(one, other) and (at < index or not _within(other, one))
            for at, other in enumerate(tolerations)
        )
        if not covered:
            found.append(one)
    return found


def _has_requests(spec: Object) -> bool:
    """Whether its quality of service is not the least."""
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        for kind in ("requests", "limits"):
            if any(name in ("cpu", "memory") for name in resources.get(kind) or {}):
                return True
    return False


def _within(one: Object, other: Object) -> bool:
    """Whether `other` tolerates all that `one` does."""
    if other.get("key") and one.get("key", "") != other["key"]:
        return False
    if other.get("effect") and one.get("effect", "") != other["effect"]:
        return False
    seconds = other.get("tolerationSeconds")
    if one.get("effect") == "NoExecute" and seconds is not None:
        own = one.get("tolerationSeconds")
        if own is None or own > seconds:
            return False
    if (other.get("operator") or "Equal") == "Exists":
        return True
    return (one.get("operator") or "Equal") == "Equal" and one.get("value", "") == other.get("value", "")
