"""Small questions about a Pod that every part of the kubelet asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Final, NewType

import msgspec

from tiphys.api.core.v1 import Container, EphemeralContainer, Pod
from tiphys.machinery.meta import ObjectName

PodUID = NewType("PodUID", str)

CONFIG_SOURCE: Final = "kubernetes.io/config.source"
CONFIG_HASH: Final = "kubernetes.io/config.hash"
CONFIG_MIRROR: Final = "kubernetes.io/config.mirror"
CONFIG_SEEN: Final = "kubernetes.io/config.seen"

AnyContainer = Container | EphemeralContainer


def uid_of(pod: Pod) -> PodUID:
    return PodUID(pod.metadata.uid)


def key_of(pod: Pod) -> ObjectName:
    return ObjectName(pod.metadata.namespace, pod.metadata.name)


def full_name(pod: Pod) -> str:
    """`name_namespace`, as upstream writes a pod in messages."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}"


def describe(pod: Pod) -> str:
    """`name_namespace(uid)`, as upstream's events and errors write it."""
    return f"{full_name(pod)}({pod.metadata.uid})"


def is_static(pod: Pod) -> bool:
    """Whether the pod comes from a file on the node rather than the API."""
    source = pod.metadata.annotations.get(CONFIG_SOURCE, "api")
    return source != "api"


def is_mirror(pod: Pod) -> bool:
    """Whether the pod is the API's shadow of a static pod."""
    return CONFIG_MIRROR in pod.metadata.annotations


def is_sidecar(container: AnyContainer) -> bool:
    """Whether an init container is restartable (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/)."""
    return container.restart_policy == "Always"


def all_containers(pod: Pod) -> Iterator[AnyContainer]:
    """Init, regular and ephemeral containers, in this order."""
    yield from pod.spec.init_containers
    yield from pod.spec.containers
    yield from pod.spec.ephemeral_containers


def container_named(pod: Pod, name: str) -> AnyContainer | None:
    return next((container for container in all_containers(pod) if container.name == name), None)


def field_path(pod: Pod, container: AnyContainer) -> str:
    """The event's `involvedObject.fieldPath` of a container: `spec.containers{name}`."""
    if any(item.name == container.name for item in pod.spec.init_containers):
        return f"spec.initContainers{{{container.name}}}"
    if any(item.name == container.name for item in pod.spec.ephemeral_containers):
        return f"spec.ephemeralContainers{{{container.name}}}"
    return f"spec.containers{{{container.name}}}"


def container_type(pod: Pod, name: str) -> str:
    """What kind of container this is, as metrics say it."""
    if any(container.name == name for container in pod.spec.init_containers):
        return "init_container"
    if any(container.name == name for container in pod.spec.ephemeral_containers):
        return "ephemeral_container"
    return "container"


def restart_policy(pod: Pod) -> str:
    return pod.spec.restart_policy or "Always"


def container_restart_policy(pod: Pod, container: AnyContainer) -> str:
    """The policy that governs one container: its own, where it has one, or the pod's."""
    return container.restart_policy or restart_policy(pod)


def grace_period(pod: Pod) -> timedelta:
    """The pod's termination grace: what its deletion asked for, or what its spec says (30 s by default)."""
    if pod.metadata.deletion_grace_period_seconds is not None and pod.metadata.deletion_timestamp is not None:
        return timedelta(seconds=pod.metadata.deletion_grace_period_seconds)
    seconds = pod.spec.termination_grace_period_seconds
    return timedelta(seconds=30 if seconds is None else seconds)


def container_hash(container: AnyContainer) -> str:
    """Changes when the container must be replaced: only name and image may change in place and matter.

    Resources are resized without a restart, everything else of a running pod is immutable.
    """
    return hashlib.sha256(f"{container.name}\0{container.image}".encode()).hexdigest()[:16]


def spec_hash(pod: Pod) -> str:
    """Identity of a static pod's content; becomes its uid."""
    return hashlib.sha256(msgspec.json.encode(pod)).hexdigest()[:32]


def is_terminal(pod: Pod) -> bool:
    """Whether the API already records the pod as finished."""
    return pod.status.phase in ("Succeeded", "Failed")
