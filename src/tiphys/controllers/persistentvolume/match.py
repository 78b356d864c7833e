"""Which volume a claim gets. Pure.

A volume whose claimRef names the claim wins. Otherwise, among those that are free and have what is
asked for: the fewest access modes, then the smallest, so that little is wasted.
https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from tiphys.api.core.v1 import PersistentVolume, PersistentVolumeClaim
from tiphys.controllers.common.selectors import selector_of
from tiphys.controllers.persistentvolume.claims import capacity, class_of, class_of_volume, is_prebound, requested


def mismatch(volume: PersistentVolume, claim: PersistentVolumeClaim) -> str:
    """Why a volume cannot serve the claim that asks for it by name; empty when it can."""
    if requested(claim) > capacity(volume):
        return "requested PV is too small"
    if class_of(claim) != class_of_volume(volume):
        return "storageClassName does not match"
    if not _same_mode(volume, claim):
        return "incompatible volumeMode"
    if (claim.spec.volume_attributes_class_name or "") != (volume.spec.volume_attributes_class_name or ""):
        return "volumeAttributesClassName does not match"
    if not set(claim.spec.access_modes) <= set(volume.spec.access_modes):
        return "incompatible accessMode"
    return ""


def best(
    volumes: Iterable[PersistentVolume],
    claim: PersistentVolumeClaim,
    *,
    only_prebound: bool = False,
    taken: Container[str] = (),
) -> PersistentVolume | None:
    """The volume for a claim; None when there is none.

    `only_prebound`: the scheduler chooses among the others. `taken`: names of volumes that are being
    given to someone else right now.
    """
    candidates = []
    for volume in volumes:
        if is_prebound(volume, claim):
            if _same_mode(volume, claim) and capacity(volume) >= requested(claim):
                return volume
        elif not only_prebound and volume.metadata.name not in taken and _is_free(volume) and _fits(volume, claim):
            candidates.append(volume)
    return min(candidates, key=_cost, default=None)


def _is_free(volume: PersistentVolume) -> bool:
    return (
        volume.spec.claim_ref is None
        and volume.metadata.deletion_timestamp is None
        and volume.status.phase == "Available"
    )


def _fits(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    if mismatch(volume, claim):
        return False
    selector = selector_of(claim.spec.selector)
    return selector is None or selector.matches(volume.metadata.labels)


def _same_mode(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    return (volume.spec.volume_mode or "Filesystem") == (claim.spec.volume_mode or "Filesystem")


def _cost(volume: PersistentVolume) -> tuple[int, int, str]:
    return (len(volume.spec.access_modes), capacity(volume), volume.metadata.name)
