"""What containers get of the node beyond shares and limits: devices, CPUs and memory of their own, near to each other.

```
 admission:  each container ──► hints (where could its CPUs, memory, devices lie) ──► topology policy ──► allocation
 start:      what was allocated ──► cpuset, memory nodes, devices, environment, mounts
 end:        all of it is free again
```
Allocation is remembered in checkpoints, so a kubelet that begins anew gives nothing twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.devices.ledger import AllocationError
from tiphys.kubelet.devices.manager import DeviceManager
from tiphys.kubelet.pod import AnyContainer, PodUID
from tiphys.kubelet.status.pod_status import Verdict

UNEXPECTED: Final = "UnexpectedAdmissionError"


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """What goes into one container for what it was allocated."""

    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[cri.Mount] = field(default_factory=list)
    devices: list[cri.Device] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    cdi: list[str] = field(default_factory=list)


class ContainerManager:
    """Gives parts of the node to containers. One admission at a time: each sees what those before it took."""

    def __init__(self, devices: DeviceManager) -> None:
        self.devices = devices
        self._lock = asyncio.Lock()

    async def admit(self, pod: Pod, active: Collection[PodUID]) -> Verdict | None:
        """Allocate for every container of the pod; why it cannot be, or None. `active`: the pods that keep theirs."""
        async with self._lock:
            for container in (*pod.spec.init_containers, *pod.spec.containers):
                try:
                    await self.devices.allocate(pod, container, active)
                except AllocationError as error:
                    return _unexpected(error)
        return None

    async def run_options(self, pod: Pod, container: AnyContainer) -> RunOptions:
        """What a container that is about to start gets. Raises AllocationError."""
        options = RunOptions()
        for answer in await self.devices.responses(pod, container):
            # Of two plugins that set one variable the first wins, as with mounts of one path.
            options.environment = {**answer.envs, **options.environment}
            options.annotations = {**answer.annotations, **options.annotations}
            options.mounts += [
                cri.Mount(container_path=item.container_path, host_path=item.host_path, readonly=item.read_only)
                for item in answer.mounts
            ]
            options.devices += [
                cri.Device(container_path=item.container_path, host_path=item.host_path, permissions=item.permissions)
                for item in answer.devices
            ]
            options.cdi += [item.name for item in answer.cdi_devices if item.name not in options.cdi]
        return options

    def amounts(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """(capacity, allocatable) of what is only known while the kubelet runs."""
        return self.devices.amounts()

    def release(self, uid: PodUID) -> None:
        """The pod has ended: what it had is free."""
        self.devices.release(uid)


def _unexpected(error: Exception) -> Verdict:
    message = f"Pod was rejected: Allocate failed due to {error}, which is unexpected"
    return Verdict(reason=UNEXPECTED, message=message)
