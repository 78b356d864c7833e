"""Which ReplicaSet is which revision, and the annotations that keep the history for `kubectl rollout`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from tiphys.api.apps.v1 import Deployment, ReplicaSet
from tiphys.api.core.v1 import PodTemplateSpec
from tiphys.api.meta.v1 import LabelSelector, ObjectMeta
from tiphys.controllers.deployment.replicas import max_surge, wanted

HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"
REVISION_HISTORY: Final = "deployment.kubernetes.io/revision-history"
DESIRED: Final = "deployment.kubernetes.io/desired-replicas"
MAXIMUM: Final = "deployment.kubernetes.io/max-replicas"
# What of the Deployment's annotations is not copied to its sets: what is about the one object only.
NOT_COPIED: Final = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED,
        MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


def revision_of(obj: Deployment | ReplicaSet) -> int:
    """The revision an object is annotated with; 0 without one."""
    text = obj.metadata.annotations.get(REVISION, "")
    return int(text) if text.isdigit() else 0


def by_age(sets: Iterable[ReplicaSet]) -> list[ReplicaSet]:
    """Oldest first; the name decides among those of one second."""
    return sorted(sets, key=lambda rs: (rs.metadata.creation_timestamp or _EPOCH, rs.metadata.name))


def without_hash(template: PodTemplateSpec | None) -> PodTemplateSpec:
    """The template as the Deployment has it: without the label the controller adds to its sets."""
    if template is None:
        return PodTemplateSpec()
    meta = template.metadata or ObjectMeta()
    labels = {key: value for key, value in meta.labels.items() if key != HASH_LABEL}
    return replace(template, metadata=replace(meta, labels=labels, creation_timestamp=None))


def find_new(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """The set of the Deployment's current template: the oldest where there are several."""
    template = without_hash(deployment.spec.template)
    for rs in by_age(sets):
        if without_hash(rs.spec.template) == template:
            return rs
    return None


def old_sets(sets: Iterable[ReplicaSet], new: ReplicaSet | None) -> list[ReplicaSet]:
    """All sets but `new`, oldest first."""
    return [rs for rs in by_age(sets) if new is None or rs.metadata.uid != new.metadata.uid]


def set_annotations(deployment: Deployment, rs: ReplicaSet, revision: int) -> ReplicaSet:
    """`rs` with what the Deployment's annotations and a revision number say; itself when nothing changes.

    A set that becomes current again moves to a new number and remembers the one it had.
    """
    copied = {key: value for key, value in deployment.metadata.annotations.items() if key not in NOT_COPIED}
    annotations = {**rs.metadata.annotations, **copied}
    had = rs.metadata.annotations.get(REVISION)
    if had is None or not had.isdigit() or int(had) < revision:
        annotations[REVISION] = str(revision)
        if had:
            history = [part for part in annotations.get(REVISION_HISTORY, "").split(",") if part]
            if had not in history:
                annotations[REVISION_HISTORY] = ",".join([*history, had])
    if annotations == dict(rs.metadata.annotations):
        return rs
    return replace(rs, metadata=replace(rs.metadata, annotations=annotations))


def scale_annotations(deployment: Deployment) -> dict[str, str]:
    """What a set remembers of the Deployment's size, from which proportional scaling starts."""
    return {DESIRED: str(wanted(deployment)), MAXIMUM: str(wanted(deployment) + max_surge(deployment))}


def new_replica_set(
    deployment: Deployment, template_hash: str, revision: int, replicas: int, owner: ObjectMeta
) -> ReplicaSet:
    """The set for the current template; `owner` carries the references to the Deployment."""
    template = deployment.spec.template
    meta = template.metadata or ObjectMeta()
    labels = {**meta.labels, HASH_LABEL: template_hash}
    selector = deployment.spec.selector
    matching = LabelSelector(
        match_labels={**selector.match_labels, HASH_LABEL: template_hash}, match_expressions=selector.match_expressions
    )
    rs = ReplicaSet(
        metadata=ObjectMeta(
            name=f"{deployment.metadata.name}-{template_hash}",
            namespace=deployment.metadata.namespace,
            labels=labels,
            owner_references=owner.owner_references,
        )
    )
    spec = replace(
        rs.spec,
        replicas=replicas,
        min_ready_seconds=deployment.spec.min_ready_seconds,
        selector=matching,
        template=replace(template, metadata=replace(meta, labels=labels)),
    )
    made = set_annotations(deployment, replace(rs, spec=spec), revision)
    annotations = {**made.metadata.annotations, **scale_annotations(deployment)}
    return replace(made, metadata=replace(made.metadata, annotations=annotations))


def expired(deployment: Deployment, olds: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """The oldest of the empty old sets beyond `revisionHistoryLimit`."""
    limit = deployment.spec.revision_history_limit
    if limit is None:
        return []
    kept = [rs for rs in olds if rs.metadata.deletion_timestamp is None]
    kept.sort(key=lambda rs: (revision_of(rs), rs.metadata.creation_timestamp or _EPOCH, rs.metadata.name))
    return [rs for rs in kept[: max(0, len(kept) - limit)] if _is_empty(rs)]


def _is_empty(rs: ReplicaSet) -> bool:
    observed = rs.status.observed_generation or 0
    return not (rs.status.replicas or wanted(rs)) and (rs.metadata.generation or 0) <= observed
