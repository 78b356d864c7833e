"""What makes a pod the n-th of its set: name, hostname, labels, claims. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec.structs import replace

from tiphys.api.apps.v1 import ControllerRevision, StatefulSet
from tiphys.api.core.v1 import (
    PersistentVolumeClaim,
    PersistentVolumeClaimVolumeSource,
    Pod,
    PodTemplateSpec,
    Volume,
)
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.controllers.common.history import template_of
from tiphys.controllers.common.podcontrol import pod_from_template

POD_NAME: Final = "statefulset.kubernetes.io/pod-name"
POD_INDEX: Final = "apps.kubernetes.io/pod-index"
REVISION: Final = "controller-revision-hash"
_ORDINAL: Final = re.compile(r"(.*)-(\d+)")


def wanted(owner: StatefulSet) -> int:
    """`spec.replicas`, whose default is one."""
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def ordinals(owner: StatefulSet) -> range:
    """The numbers its pods should have."""
    start = owner.spec.ordinals.start if owner.spec.ordinals is not None else 0
    return range(start, start + wanted(owner))


def ordinal_of(owner: StatefulSet, pod: Pod) -> int | None:
    """The pod's number; None when its name is not one of the set's."""
    match = _ORDINAL.fullmatch(pod.metadata.name)
    return int(match[2]) if match is not None and match[1] == owner.metadata.name else None


def claim_name(owner: StatefulSet, template: PersistentVolumeClaim, ordinal: int) -> str:
    """The name of the claim a template gives the n-th pod."""
    return f"{template.metadata.name}-{owner.metadata.name}-{ordinal}"


def pod_of(owner: StatefulSet, revision: ControllerRevision, ordinal: int) -> Pod:
    """The n-th pod in the template of a revision."""
    template = msgspec.convert(template_of(revision), PodTemplateSpec)
    name = f"{owner.metadata.name}-{ordinal}"
    labels = {REVISION: revision.metadata.name, POD_NAME: name, POD_INDEX: str(ordinal)}
    pod = pod_from_template(template, owner, name=name, extra_labels=labels)
    claims = {
        one.metadata.name: Volume(
            name=one.metadata.name,
            persistent_volume_claim=PersistentVolumeClaimVolumeSource(claim_name=claim_name(owner, one, ordinal)),
        )
        for one in owner.spec.volume_claim_templates
    }
    others = tuple(volume for volume in pod.spec.volumes if volume.name not in claims)
    spec = replace(pod.spec, hostname=name, subdomain=owner.spec.service_name, volumes=(*claims.values(), *others))
    return replace(pod, spec=spec)


def claims_of(owner: StatefulSet, ordinal: int) -> list[PersistentVolumeClaim]:
    """The claims of the n-th pod; they carry the labels of the set's selector."""
    return [
        replace(
            template,
            metadata=ObjectMeta(
                name=claim_name(owner, template, ordinal),
                namespace=owner.metadata.namespace,
                labels={**template.metadata.labels, **owner.spec.selector.match_labels},
                annotations=template.metadata.annotations,
            ),
        )
        for template in owner.spec.volume_claim_templates
    ]


def claim_owners(
    owner: StatefulSet, pod: Pod | None, ordinal: int, claim: PersistentVolumeClaim
) -> tuple[OwnerReference, ...]:
    """The owners of a claim under the set's retention policy.

    whenDeleted Delete: the set owns it and takes it along. whenScaled Delete: the pod of a number no
    longer wanted owns it, so that it goes when the pod does. A claim that another controls is left to it.
    """
    policy = owner.spec.persistent_volume_claim_retention_policy
    deleted = policy is not None and policy.when_deleted == "Delete"
    scaled = policy is not None and policy.when_scaled == "Delete"
    others = tuple(
        one
        for one in claim.metadata.owner_references
        if one.uid != owner.metadata.uid and not (one.kind == "Pod" and one.name == f"{owner.metadata.name}-{ordinal}")
    )
    if any(one.controller for one in others):
        return others
    surplus = ordinal not in ordinals(owner)
    if scaled and surplus and pod is not None:
        return (*others, _reference("v1", "Pod", pod.metadata))
    if deleted and not (scaled and surplus):
        return (*others, _reference("apps/v1", "StatefulSet", owner.metadata))
    return others


def _reference(api_version: str, kind: str, meta: ObjectMeta) -> OwnerReference:
    return OwnerReference(
        api_version=api_version,
        kind=kind,
        name=meta.name,
        uid=meta.uid,
        controller=True,
        block_owner_deletion=True,
    )
