"""Fields of pod specs behind feature gates that are off: what a client writes there is dropped, in templates as well.

Stop signals of containers, scheduling groups, projections of trust bundles and of certificates.
https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tiphys.apiserver.registry.strategy import Object

CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
PROJECTIONS: Final = ("clusterTrustBundle", "podCertificate")


def drop_disabled_fields(obj: Object, at: Sequence[str]) -> None:
    """Drop them from the pod spec at the end of the path `at`; an empty path: the object has none."""
    if not at:
        return
    spec = obj
    for name in at:
        spec = spec.get(name) or {}
    spec.pop("schedulingGroup", None)
    for kind in CONTAINERS:
        for container in spec.get(kind) or ():
            lifecycle = container.get("lifecycle")
            if lifecycle and lifecycle.pop("stopSignal", None) is not None and not lifecycle:
                del container["lifecycle"]
    for volume in spec.get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            for name in PROJECTIONS:
                source.pop(name, None)
