"""Extended resources that drivers of devices serve (KEP-5004).

    DeviceClass "gpu", extendedResourceName example.com/gpu
    pod: containers[0] requests example.com/gpu: 2   ->   one claim for the pod: container-0-request-0, 2 of class "gpu"

A class also serves `deviceclass.resource.kubernetes.io/NAME`. A node that counts the resource itself, as device plugins
make it do, serves it as ever: what the claim asks for follows from the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tiphys.api.core.v1 import Container, Node, Pod
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.api.resource.v1 import (
    DeviceClaim,
    DeviceClass,
    DeviceRequest,
    ExactDeviceRequest,
    ResourceClaim,
    ResourceClaimSpec,
)
from tiphys.client import Informers
from tiphys.machinery.quantity import parse_cached

ANNOTATION: Final = "resource.kubernetes.io/extended-resource-claim"
IMPLICIT: Final = "deviceclass.resource.kubernetes.io/"
EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


class Asked(NamedTuple):
    """What one container asks for of one resource; `request` names it in the claim."""

    container: str
    resource: str
    request: str
    device_class: str
    amount: int


class ExtendedResources:
    """Which class serves which resource: of several the newest, of equally new ones the first by name."""

    def __init__(self, informers: Informers) -> None:
        informer = informers.of(DeviceClass)
        self._classes = informer.lister
        self._by_resource: dict[str, str] | None = None
        self.version = 0  # grows with every change
        informer.add_handler(self._changed, lambda *_: self._changed(), self._changed)

    def _changed(self, *_: object) -> None:
        self._by_resource = None
        self.version += 1

    def class_of(self, resource: str) -> str | None:
        """The name of the class; None when no class serves the resource."""
        if "/" not in resource:
            return None
        if self._by_resource is None:
            self._by_resource = {}
            oldest_first = sorted(self._classes.list(), key=lambda one: one.metadata.name, reverse=True)
            oldest_first.sort(key=lambda one: one.metadata.creation_timestamp or EARLIEST)
            for each in oldest_first:
                self._by_resource[IMPLICIT + each.metadata.name] = each.metadata.name
                if each.spec.extended_resource_name:
                    self._by_resource[each.spec.extended_resource_name] = each.metadata.name
        return self._by_resource.get(resource)

    def asked_by(self, pod: Pod) -> tuple[Asked, ...]:
        """By container. An init container ends before others begin: it has the devices of one that wants as many."""
        init, regular = pod.spec.init_containers, pod.spec.containers
        numbered = list(enumerate((*init, *regular)))
        lasting = [each for each in numbered if each[0] >= len(init) or each[1].restart_policy == "Always"]
        found = [asked for number, container in lasting for asked in self._of(container, number)]
        for number, container in numbered:
            if number < len(init) and container.restart_policy != "Always":
                for asked in self._of(container, number):
                    same = (each.request for each in found if each[1:] == asked._replace(request=each.request)[1:])
                    found.append(asked._replace(request=next(same, asked.request)))
        return tuple(found)

    def _of(self, container: Container, number: int) -> Iterable[Asked]:
        requests = container.resources.requests if container.resources else {}
        for index, name in enumerate(sorted(requests)):
            served, count = self.class_of(name), int(parse_cached(requests[name]).value())
            if served is not None and count > 0:
                yield Asked(container.name, name, f"container-{number}-request-{index}", served, count)


def without_plugin(node: Node, asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """What of it the node does not count itself."""
    allocatable = node.status.allocatable
    return tuple(each for each in asked if parse_cached(allocatable.get(each.resource, "0")).value() <= 0)


def claim_for(pod: Pod, asked: Sequence[Asked]) -> ResourceClaim:
    """The pod's claim, as it is to be made; the uid is for us until then."""
    requests = {
        each.request: DeviceRequest(
            name=each.request,
            exactly=ExactDeviceRequest(
                device_class_name=each.device_class, allocation_mode="ExactCount", count=each.amount
            ),
        )
        for each in asked
    }
    owner = OwnerReference(
        api_version="v1",
        kind="Pod",
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
    metadata = ObjectMeta(
        generate_name=f"{pod.metadata.name}-extended-resources-",
        namespace=pod.metadata.namespace,
        uid=f"extended/{pod.metadata.uid}",
        annotations={ANNOTATION: "true"},
        owner_references=(owner,),
    )
    spec = ResourceClaimSpec(devices=DeviceClaim(requests=tuple(requests.values())))
    return ResourceClaim(metadata=metadata, spec=spec)


def owner_of(claim: ResourceClaim) -> tuple[str, ...]:
    """The uid of the pod a claim of this kind was made for: an index."""
    if ANNOTATION not in claim.metadata.annotations:
        return ()
    return tuple(owner.uid for owner in claim.metadata.owner_references if owner.controller)


def status_patch(pod: Pod, claim: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """What the pod's status says, for the kubelet, of the claim."""
    mappings = [
        {"containerName": each.container, "resourceName": each.resource, "requestName": each.request} for each in asked
    ]
    return {
        "metadata": {"uid": pod.metadata.uid},
        "status": {"extendedResourceClaimStatus": {"resourceClaimName": claim, "requestMappings": mappings}},
    }
