"""LimitRanger: the limits of a namespace, filled in where a pod says nothing and enforced where it says too much.

https://kubernetes.io/docs/concepts/policy/limit-range/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tiphys.apiserver.admission.base import WRITE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery.quantity import Quantity

ANNOTATION: Final = "kubernetes.io/limit-ranger"
_ZERO: Final = Quantity.of(0)


class LimitRanger(AdmissionPlugin):
    """Looks at pods and persistent volume claims."""

    name = "LimitRanger"
    operations = WRITE
    resources = frozenset({("", "pods"), ("", "pods/resize"), ("", "persistentvolumeclaims")})

    def handles(self, attributes: AdmissionAttributes) -> bool:
        # A pod's resources change only through its resize subresource.
        is_update = attributes.operation is Operation.UPDATE and attributes.resource.resource == "pods"
        return super().handles(attributes) and (not is_update or attributes.subresource == "resize")

    def _ranges(self, namespace: str) -> list[Object]:
        return list(self.reader.list("", "limitranges", namespace))

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None or attributes.resource.resource != "pods" or attributes.subresource:
            return  # what a pod was made without is not added later
        for limit_range in self._ranges(attributes.namespace):
            default_pod(attributes.object, limit_range)

    async def validate(self, attributes: AdmissionAttributes) -> None:
        if attributes.object is None:
            return
        problems: list[str] = []
        for limit_range in self._ranges(attributes.namespace):
            for limit in limit_range.get("spec", {}).get("limits") or ():
                problems += check(attributes.resource.resource, attributes.object, limit)
        if problems:
            raise refuse(attributes, problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")


def default_pod(pod: Object, limit_range: Object) -> None:
    """Fill in requests and limits of the pod's containers; an annotation says what was filled in."""
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}
    for limit in limit_range.get("spec", {}).get("limits") or ():
        if limit.get("type") == "Container":
            requests |= limit.get("defaultRequest") or {}
            limits |= limit.get("default") or {}
    if not limits and not requests:
        return
    notes: list[str] = []
    spec = pod.setdefault("spec", {})
    for key, word in (("containers", "container"), ("initContainers", "init container")):
        for container in spec.get(key) or ():
            resources = container.setdefault("resources", {})
            for part, defaults, what in (("requests", requests, "request"), ("limits", limits, "limit")):
                own = resources.get(part) or {}
                added = sorted(set(defaults) - set(own))
                if added:
                    resources[part] = own | {name: defaults[name] for name in added}
                    notes.append(f"{', '.join(added)} {what} for {word} {container['name']}")
    if notes:
        metadata = pod.setdefault("metadata", {})
        metadata["annotations"] = (metadata.get("annotations") or {}) | {
            ANNOTATION: "LimitRanger plugin set: " + "; ".join(notes)
        }


def check(resource: str, obj: Object, limit: Object) -> list[str]:
    """What an object does against one limit, in upstream's words."""
    kind = limit.get("type")
    spec = obj.get("spec", {})
    if resource == "persistentvolumeclaims":
        if kind != "PersistentVolumeClaim":
            return []
        return _bounds(kind, limit, (spec.get("resources") or {}).get("requests") or {}, {}, claim=True)
    problems: list[str] = []
    if kind == "Container":
        for container in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
            resources = container.get("resources") or {}
            problems += _bounds(kind, limit, resources.get("requests") or {}, resources.get("limits") or {})
    elif kind == "Pod":
        problems += _bounds(kind, limit, pod_total(spec, "requests"), pod_total(spec, "limits"))
    return problems


def pod_total(spec: Object, part: str) -> dict[str, str]:
    """What a pod asks for: the sum of its containers, or the largest of its init containers."""
    total = _sum((container.get("resources") or {}).get(part) or {} for container in spec.get("containers") or ())
    sidecars: dict[str, Quantity] = {}
    for container in spec.get("initContainers") or ():
        own = (container.get("resources") or {}).get(part) or {}
        if container.get("restartPolicy") == "Always":
            sidecars = _add(sidecars, own)
            total = _add(total, own)
            continue
        for name, text in own.items():
            needed = Quantity.parse(text) + sidecars.get(name, _ZERO)
            if needed > total.get(name, _ZERO):
                total[name] = needed
    return {name: str(quantity) for name, quantity in total.items()}


def _sum(parts: Iterable[Mapping[str, str]]) -> dict[str, Quantity]:
    total: dict[str, Quantity] = {}
    for part in parts:
        total = _add(total, part)
    return total


def _add(total: dict[str, Quantity], part: Mapping[str, str]) -> dict[str, Quantity]:
    for name, text in part.items():
        total[name] = total.get(name, _ZERO) + Quantity.parse(text)
    return total


def _bounds(
    kind: str, limit: Object, requests: Mapping[str, str], limits: Mapping[str, str], *, claim: bool = False
) -> list[str]:
    """One problem at most for each bound of a resource."""
    problems: list[str] = []
    for name, text in sorted((limit.get("min") or {}).items()):
        bound, request, own = Quantity.parse(text), requests.get(name), limits.get(name)
        if request is None:
            problems.append(f"minimum {name} usage per {kind} is {text}.  No request is specified")
        elif Quantity.parse(request) < bound:
            problems.append(f"minimum {name} usage per {kind} is {text}, but request is {request}")
        elif own is not None and Quantity.parse(own) < bound:
            problems.append(f"minimum {name} usage per {kind} is {text}, but limit is {own}")
    for name, text in sorted((limit.get("max") or {}).items()):
        bound = Quantity.parse(text)
        request, own = requests.get(name), requests.get(name) if claim else limits.get(name)
        word = "request" if claim else "limit"
        if own is None:
            problems.append(f"maximum {name} usage per {kind} is {text}.  No {word} is specified")
        elif Quantity.parse(own) > bound:
            problems.append(f"maximum {name} usage per {kind} is {text}, but {word} is {own}")
        elif not claim and request is not None and Quantity.parse(request) > bound:
            problems.append(f"maximum {name} usage per {kind} is {text}, but request is {request}")
    for name, text in sorted((limit.get("maxLimitRequestRatio") or {}).items()):
        problems += _ratio(kind, name, text, requests.get(name), limits.get(name))
    return problems


def _ratio(kind: str, name: str, text: str, request: str | None, limit: str | None) -> list[str]:
    if request is None or Quantity.parse(request).is_zero():
        return [f"{name} max limit to request ratio per {kind} is {text}, but no request is specified or request is 0"]
    if limit is None or Quantity.parse(limit).is_zero():
        return [f"{name} max limit to request ratio per {kind} is {text}, but no limit is specified or limit is 0"]
    found = Quantity.parse(limit).amount / Quantity.parse(request).amount
    if found > Quantity.parse(text).amount:
        return [f"{name} max limit to request ratio per {kind} is {text}, but provided ratio is {float(found):.6f}"]
    return []
