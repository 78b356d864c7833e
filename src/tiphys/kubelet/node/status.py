"""The status of the Node. Pure: from what was measured to what is reported, and whether it is worth a write.

https://kubernetes.io/docs/reference/node/node-status/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from tiphys.api.core.v1 import (
    ContainerImage,
    DaemonEndpoint,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeFeatures,
    NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures,
    NodeStatus,
    NodeSwapStatus,
    NodeSystemInfo,
)
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.node.machine import Machine
from tiphys.kubelet.resources import is_extended_resource
from tiphys.machinery.quantity import Quantity

VERSION: Final = "v1.36.2"
# Features that are under way in v1.36 and that this kubelet has: the API server and the scheduler go by them.
# https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
DECLARED_FEATURES: Final = (
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
)
MAX_IMAGES: Final = 50
MAX_NAMES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the conditions are made of. `problems` make the node not ready, worded for the condition."""

    problems: tuple[str, ...] = ()
    memory_pressure: bool = False
    disk_pressure: bool = False
    pid_pressure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFacts:
    """Everything a status is made of."""

    machine: Machine
    hostname: str
    ips: Sequence[str]
    port: int
    capacity: Mapping[str, str]
    allocatable: Mapping[str, str]
    runtime: cri.VersionResponse
    runtime_status: cri.StatusResponse | None = None
    images: Sequence[cri.Image] = field(default=())
    volumes_in_use: tuple[str, ...] = ()
    health: Health = Health()


def capacity_of(machine: Machine, max_pods: int, override: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the node has in all."""
    capacity = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": f"{machine.disk // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "pods": str(max_pods),
    }
    return {**capacity, **(override or {})}


def allocatable_of(
    capacity: Mapping[str, str], reserved: Sequence[Mapping[str, str]], eviction_hard: Mapping[str, str]
) -> dict[str, str]:
    """What pods may use: capacity less reservations and less what eviction keeps free."""
    result = {}
    signals = {"memory": "memory.available", "ephemeral-storage": "nodefs.available"}
    for name, text in capacity.items():
        amount = Quantity.parse(text)
        for reservation in reserved:
            if name in reservation:
                amount -= Quantity.parse(reservation[name])
        threshold = eviction_hard.get(signals.get(name, ""), "")
        if threshold.endswith("%"):
            kept = int(Quantity.parse(text).value() * float(threshold[:-1]) / 100)
            amount -= Quantity.of(kept)
            # The unit does not divide evenly any more: plain bytes, as upstream shows them.
            amount = Quantity.of(amount.value())
        elif threshold:
            amount -= Quantity.parse(threshold)
        result[name] = str(amount) if amount > Quantity.parse("0") else "0"
    return result


def node_status(facts: StatusFacts, old: NodeStatus, now: datetime) -> NodeStatus:
    """The status to report; `old` is what the API has, for times and for what others own.

    Extended resources that an administrator has put into the capacity stay, and pods may use all of them:
    https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/
    """
    machine = facts.machine
    advertised = {
        name: amount
        for name, amount in old.capacity.items()
        if name not in facts.capacity and is_extended_resource(name)
    }
    return NodeStatus(
        capacity={**advertised, **facts.capacity},
        allocatable={**advertised, **facts.allocatable},
        conditions=_conditions(facts.health, old.conditions, now),
        addresses=(
            *(NodeAddress(type="InternalIP", address=ip) for ip in facts.ips),
            NodeAddress(type="Hostname", address=facts.hostname),
        ),
        daemon_endpoints=NodeDaemonEndpoints(kubelet_endpoint=DaemonEndpoint(port=facts.port)),
        node_info=NodeSystemInfo(
            machine_id=machine.machine_id,
            system_uuid=machine.system_uuid,
            boot_id=machine.boot_id,
            kernel_version=machine.kernel,
            os_image=machine.os_image,
            container_runtime_version=f"{facts.runtime.runtime_name}://{facts.runtime.runtime_version}",
            kubelet_version=VERSION,
            kube_proxy_version="",
            operating_system="linux",
            architecture=machine.architecture,
            swap=NodeSwapStatus(capacity=machine.swap) if machine.swap else None,
        ),
        images=_images(facts.images),
        volumes_in_use=facts.volumes_in_use,
        runtime_handlers=_handlers(facts.runtime_status),
        declared_features=DECLARED_FEATURES,
        features=NodeFeatures(supplemental_groups_policy=facts.runtime_status.features.supplemental_groups_policy)
        if facts.runtime_status is not None and facts.runtime_status.HasField("features")
        else None,
    )


def status_patch(old: NodeStatus, new: NodeStatus) -> dict[str, Any]:
    """The strategic merge patch that reports `new` and leaves conditions of others alone.

    Of the resources it has only what differs from `old`: a resource that an administrator is just taking away
    must not come back.
    """
    document: dict[str, Any] = msgspec.to_builtins(new)
    gone: dict[str, str | None] = {
        name: None for name in old.allocatable if name not in new.allocatable and is_extended_resource(name)
    }
    document["capacity"] = _changed(old.capacity, new.capacity)
    document["allocatable"] = gone | _changed(old.allocatable, new.allocatable)
    document["addresses"] = [*document.get("addresses", []), {"$patch": "replace"}]
    # Go writes these even when they are empty.
    document["nodeInfo"]["kubeProxyVersion"] = ""
    document.setdefault("volumesInUse", None)  # none any more: what was there has to go
    return {"status": document}


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str | None]:
    return {name: amount for name, amount in new.items() if old.get(name) != amount}


def worth_reporting(old: NodeStatus, new: NodeStatus, since_last: timedelta, at_least_every: timedelta) -> bool:
    """Whether anything but the heartbeat times differs, or the last report is too long ago."""
    return since_last >= at_least_every or _timeless(old) != _timeless(new)


def _timeless(status: NodeStatus) -> NodeStatus:
    ours = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    conditions = sorted(
        (replace(c, last_heartbeat_time=None) for c in status.conditions if c.type in ours), key=lambda c: c.type
    )
    return replace(status, conditions=tuple(conditions), volumes_attached=())


def _conditions(health: Health, old: Sequence[NodeCondition], now: datetime) -> tuple[NodeCondition, ...]:
    known = {condition.type: condition for condition in old}
    moment = now.replace(microsecond=0)

    def condition(kind: str, holds: bool, reasons: tuple[str, str], messages: tuple[str, str]) -> NodeCondition:
        status = "True" if holds else "False"
        before = known.get(kind)
        same = before is not None and before.status == status
        return NodeCondition(
            type=kind,
            status=status,
            reason=reasons[0] if holds else reasons[1],
            message=messages[0] if holds else messages[1],
            last_heartbeat_time=moment,
            last_transition_time=before.last_transition_time if same and before is not None else moment,
        )

    return (
        condition(
            "MemoryPressure",
            health.memory_pressure,
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        ),
        condition(
            "DiskPressure",
            health.disk_pressure,
            ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            ("kubelet has disk pressure", "kubelet has no disk pressure"),
        ),
        condition(
            "PIDPressure",
            health.pid_pressure,
            ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        ),
        condition(
            "Ready",
            not health.problems,
            ("KubeletReady", "KubeletNotReady"),
            ("kubelet is posting ready status", _problem_text(health.problems)),
        ),
    )


def _problem_text(problems: Sequence[str]) -> str:
    return problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"


def _images(images: Sequence[cri.Image]) -> tuple[ContainerImage, ...]:
    """The largest images first, as the scheduler wants to know them."""
    largest = sorted(images, key=lambda image: image.size, reverse=True)[:MAX_IMAGES]
    listed = ((sorted(i.repo_digests)[:MAX_NAMES] + sorted(i.repo_tags)[:MAX_NAMES], i.size) for i in largest)
    return tuple(ContainerImage(names=tuple(names), size_bytes=size) for names, size in listed if names)


def _handlers(status: cri.StatusResponse | None) -> tuple[NodeRuntimeHandler, ...]:
    handlers = status.runtime_handlers if status is not None else ()
    return tuple(
        NodeRuntimeHandler(
            name=handler.name,
            features=NodeRuntimeHandlerFeatures(
                recursive_read_only_mounts=handler.features.recursive_read_only_mounts,
                user_namespaces=handler.features.user_namespaces,
            ),
        )
        for handler in handlers
    )
