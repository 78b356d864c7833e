"""What a pod's worker works with: one bundle of the node's parts, made once by the Kubelet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tiphys.api.core.v1 import Pod, Secret, Service
from tiphys.base.clock import Clock
from tiphys.client import Client, EventRecorder, Lister, Preconditions
from tiphys.kubelet.backoff import Backoff
from tiphys.kubelet.cgroups.tree import CgroupTree
from tiphys.kubelet.config import KubeletConfiguration, KubeletFlags
from tiphys.kubelet.containermanager import ContainerManager
from tiphys.kubelet.containers.dns import Resolver
from tiphys.kubelet.containers.images import ImageManager
from tiphys.kubelet.cri.client import CRIClient
from tiphys.kubelet.dra.manager import ClaimManager
from tiphys.kubelet.objects import ObjectCache
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import AnyContainer, PodUID, field_path, key_of
from tiphys.kubelet.probes.manager import ProbeManager
from tiphys.kubelet.status.manager import StatusManager
from tiphys.kubelet.status.pod_status import Verdict
from tiphys.kubelet.usernamespaces import UserNamespaces
from tiphys.kubelet.volumes.manager import VolumeManager
from tiphys.kubelet.volumes.token import TokenManager
from tiphys.machinery.errors import ConflictError, NotFoundError, StatusError
from tiphys.machinery.meta import ObjectName


@dataclass(slots=True, kw_only=True)
class NodeFacts:
    """What is known of the node; filled in at start and when it changes."""

    host_ips: tuple[str, ...] = ()
    runtime_name: str = "unknown"
    capacity: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 1
    resolver: Resolver = field(default_factory=Resolver)
    hosts: str = ""


class MirrorLookup(Protocol):
    """Finds what the API has of a pod: itself, or a static pod's mirror."""

    def __call__(self, pod: Pod) -> Pod | None: ...


class Room(Protocol):
    """What a resize must know of the node's other pods."""

    def others(self, uid: PodUID) -> list[Pod]:
        """The pods that use the node beside this one, with the resources they were granted."""

    def changed(self) -> None:
        """A pod became smaller or has gone: a resize that waits may have its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodServices:
    """The parts."""

    config: KubeletConfiguration
    flags: KubeletFlags
    client: Client
    clock: Clock
    runtime: CRIClient
    recorder: EventRecorder
    status: StatusManager
    images: ImageManager
    volumes: VolumeManager
    cgroups: CgroupTree
    containers: ContainerManager
    claims: ClaimManager
    probes: ProbeManager
    objects: ObjectCache
    tokens: TokenManager
    services: Lister[Service]
    crash_backoff: Backoff
    paths: Paths
    node: NodeFacts
    users: UserNamespaces
    api_pod: MirrorLookup
    room: Room

    def event(self, pod: Pod, kind: str, reason: str, message: str, container: AnyContainer | None = None) -> None:
        """Record an event about the pod, or about one of its containers."""
        about = self.api_pod(pod) or pod
        path = field_path(pod, container) if container is not None else ""
        self.recorder.event(about, kind, reason, message, field_path=path)

    def refused(self, pod: Pod, verdict: Verdict) -> None:
        """Record that the node does not take the pod."""
        self.event(pod, "Warning", verdict.reason, verdict.message.removeprefix("Pod was rejected: "))

    async def pull_secrets(self, pod: Pod) -> list[Secret]:
        """The pod's imagePullSecrets; those that are missing are left out (the pull tells what it lacked)."""
        found = []
        for reference in pod.spec.image_pull_secrets:
            if reference.name:
                try:
                    found.append(await self.objects.get(Secret, ObjectName(pod.metadata.namespace, reference.name)))
                except (StatusError, OSError):
                    message = (
                        "Unable to retrieve some image pull secrets "
                        f"({reference.name}); attempting to pull the image may not succeed."
                    )
                    self.event(pod, "Warning", "FailedToRetrieveImagePullSecret", message)
        return found

    async def delete_api_pod(self, pod: Pod) -> None:
        """Let the API forget a pod that has ended here; another pod of its name is left alone."""
        try:
            await self.client.delete(
                Pod, key_of(pod), only_if=Preconditions(uid=pod.metadata.uid), grace_period_seconds=0
            )
        except (NotFoundError, ConflictError):
            return

    def forget(self, uid: PodUID) -> None:
        """Drop everything remembered of a pod that is gone."""
        self.probes.remove(uid)
        self.objects.unregister(uid)
        self.tokens.forget(uid)
        self.images.forget_pod(uid)
        self.crash_backoff.forget_prefix(uid)
        self.status.forget(uid)
