"""Plug-ins about pods that have to be asked for: images always pulled, devices tolerated, anti-affinity kept near.

https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tiphys.apiserver.admission.base import CREATE, WRITE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes, Operation
from tiphys.machinery import field
from tiphys.machinery.field import FieldError, Path

PODS: Final = frozenset({("", "pods")})
HOSTNAME: Final = "kubernetes.io/hostname"
ALWAYS: Final = "Always"
_LISTS: Final = ("initContainers", "containers", "ephemeralContainers")


class AlwaysPullImages(AdmissionPlugin):
    """Images are pulled with the pod's own credentials, even where a node has them already."""

    name = "AlwaysPullImages"
    operations = WRITE
    resources = PODS | {("", "pods/ephemeralcontainers")}

    async def admit(self, attributes: AdmissionAttributes) -> None:
        if _only_metadata(attributes):
            return
        spec = (attributes.object or {}).get("spec") or {}
        for _, container in _containers(spec):
            container["imagePullPolicy"] = ALWAYS
        for _, image in _images(spec):
            if image.get("reference"):
                image["pullPolicy"] = ALWAYS

    async def validate(self, attributes: AdmissionAttributes) -> None:
        if _only_metadata(attributes):
            return
        spec = (attributes.object or {}).get("spec") or {}
        errors: list[FieldError] = []
        for path, container in _containers(spec):
            policy = container.get("imagePullPolicy") or ""
            if policy != ALWAYS:
                errors.append(field.not_supported(path.child("imagePullPolicy"), policy, [ALWAYS]))
        for path, image in _images(spec):
            policy = image.get("pullPolicy") or ""
            if image.get("reference") and policy != ALWAYS:
                errors.append(field.not_supported(path.child("pullPolicy"), policy, [ALWAYS]))
        if errors:
            raise refuse(attributes, str(errors[0]) if len(errors) == 1 else f"[{', '.join(map(str, errors))}]")


def _containers(spec: Object) -> Iterator[tuple[Path, Object]]:
    for key in _LISTS:
        for index, container in enumerate(spec.get(key) or ()):
            yield Path("spec").child(key).index(index), container


def _images(spec: Object) -> Iterator[tuple[Path, Object]]:
    for index, volume in enumerate(spec.get("volumes") or ()):
        if volume.get("image") is not None:
            yield Path("spec").child("volumes").index(index).child("image"), volume["image"]


def _only_metadata(attributes: AdmissionAttributes) -> bool:
    """An update that brings no image into play."""
    if attributes.operation is not Operation.UPDATE:
        return False

    def used(pod: Object | None) -> set[str]:
        spec = (pod or {}).get("spec") or {}
        images = {str(one.get("image") or "") for _, one in _containers(spec)}
        return images | {str(one.get("reference") or "") for _, one in _images(spec)}

    return used(attributes.object) <= used(attributes.old_object)


class ExtendedResourceToleration(AdmissionPlugin):
    """Nodes with special devices are tainted with the devices' name: who asks for such a device tolerates it."""

    name = "ExtendedResourceToleration"
    operations = WRITE
    resources = PODS

    async def admit(self, attributes: AdmissionAttributes) -> None:
        spec: Object = (attributes.object or {}).setdefault("spec", {})
        wanted = {
            name
            for key in ("containers", "initContainers")
            for container in spec.get(key) or ()
            for name in ((container.get("resources") or {}).get("requests") or {})
            if _is_extended(name)
        }
        tolerations = spec.get("tolerations") or []
        for name in sorted(wanted):
            _tolerate(tolerations, {"key": name, "operator": "Exists", "effect": "NoSchedule"})
        if tolerations:
            spec["tolerations"] = tolerations


def _is_extended(name: str) -> bool:
    """example.com/device, but not what Kubernetes itself counts."""
    domain, slash, _ = name.partition("/")
    return bool(slash) and not domain.endswith("kubernetes.io") and not name.startswith("requests.")


def _tolerate(tolerations: list[Any], wanted: Object) -> None:
    same = ("key", "operator", "effect", "value")
    if not any(all(one.get(name, "") == wanted.get(name, "") for name in same) for one in tolerations):
        tolerations.append(wanted)


class LimitPodHardAntiAffinityTopology(AdmissionPlugin):
    """A pod may keep others off its node, not off everything that is further away."""

    name = "LimitPodHardAntiAffinityTopology"
    operations = CREATE | WRITE
    resources = PODS

    async def validate(self, attributes: AdmissionAttributes) -> None:
        affinity = ((attributes.object or {}).get("spec") or {}).get("affinity") or {}
        terms = (affinity.get("podAntiAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
        for term in terms:
            key = term.get("topologyKey") or ""
            if key != HOSTNAME:
                raise refuse(
                    attributes,
                    f"affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} "
                    "is allowed",
                )
