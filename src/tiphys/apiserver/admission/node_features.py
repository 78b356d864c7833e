"""NodeDeclaredFeatureValidator: a pod on a node is not changed to need a feature that the node does not declare.

Of the features nodes declare in v1.36, changes of a pod may need two: new resources for the pod as a whole, and new
resources for init containers that end.
https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tiphys.apiserver.admission.base import UPDATE, AdmissionPlugin, Object, refuse
from tiphys.apiserver.admission.interface import AdmissionAttributes
from tiphys.machinery.meta import ObjectName

POD_LEVEL_RESIZE: Final = "InPlacePodLevelResourcesVerticalScaling"
INIT_CONTAINER_RESIZE: Final = "InPlacePodVerticalScalingInitContainers"


class NodeDeclaredFeatureValidator(AdmissionPlugin):
    """Compares what an update needs with `status.declaredFeatures` of the pod's node."""

    name = "NodeDeclaredFeatureValidator"
    operations = UPDATE
    resources = frozenset({("", "pods"), ("", "pods/resize")})

    async def validate(self, attributes: AdmissionAttributes) -> None:
        new, old = ((obj or {}).get("spec") or {} for obj in (attributes.object, attributes.old_object))
        node_name = new.get("nodeName") or ""
        needed = list(features_of_update(new, old)) if node_name else []
        if not needed:
            return
        node = self.reader.get("", "nodes", ObjectName("", node_name))
        if node is None:
            raise refuse(attributes, f'node "{node_name}" not found')
        declared = (node.get("status") or {}).get("declaredFeatures") or ()
        missing = [feature for feature in needed if feature not in declared]
        if missing:
            shown = ", ".join(missing)
            message = f'pod update requires features {shown} which are not available on node "{node_name}"'
            raise refuse(attributes, message)


def features_of_update(new: Object, old: Object) -> Iterator[str]:
    """The features a node needs for a change from one pod spec to another, by name."""
    if (new.get("resources") or {}) != (old.get("resources") or {}):
        yield POD_LEVEL_RESIZE
    if _init_resources(new) != _init_resources(old):
        yield INIT_CONTAINER_RESIZE


def _init_resources(spec: Object) -> list[Object]:
    """Of the init containers that end: sidecars have always been resized."""
    found = spec.get("initContainers") or ()
    return [one.get("resources") or {} for one in found if one.get("restartPolicy") != "Always"]
