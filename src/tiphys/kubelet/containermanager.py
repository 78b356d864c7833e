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
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.kubelet.cpumanager.assignment import NotEnoughCPUs
from tiphys.kubelet.cpumanager.manager import CPUManager, SMTAlignmentError
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.devices.ledger import AllocationError
from tiphys.kubelet.devices.manager import DeviceManager
from tiphys.kubelet.memorymanager.manager import MemoryManager, NotEnoughMemory
from tiphys.kubelet.pod import AnyContainer, PodUID, is_sidecar, uid_of
from tiphys.kubelet.status.pod_status import Verdict
from tiphys.kubelet.topology.hints import Hint, Nodes
from tiphys.kubelet.topology.policy import TopologyPolicy

log = get_logger(__name__)

UNEXPECTED: Final = "UnexpectedAdmissionError"
TOPOLOGY: Final = "TopologyAffinityError"
SMT: Final = "SMTAlignmentError"
REJECTED: Final = "Pod was rejected: "

# (pod, container, container id) of what runs.
Running = Callable[[], Iterable[tuple[PodUID, str, str]]]
Update = Callable[[str, cri.LinuxContainerResources], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class RunOptions:
    """What goes into one container for what it was allocated."""

    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[cri.Mount] = field(default_factory=list)
    devices: list[cri.Device] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    cdi: list[str] = field(default_factory=list)
    cpus: str = ""
    mems: str = ""


class ContainerManager:
    """Gives parts of the node to containers. One admission at a time: each sees what those before it took."""

    def __init__(
        self, devices: DeviceManager, cpus: CPUManager, memory: MemoryManager, policy: TopologyPolicy, clock: Clock
    ) -> None:
        self.devices = devices
        self.cpus = cpus
        self.memory = memory
        self._policy = policy
        self._clock = clock
        self._lock = asyncio.Lock()
        self._moved = asyncio.Event()  # the CPUs that are shared are others now
        self._applied: dict[str, str] = {}  # the cpuset each running container was given last, by id

    # -- admission -----------------------------------------------------------------------------------

    async def admit(self, pod: Pod, active: Collection[PodUID]) -> Verdict | None:
        """Allocate for every container of the pod; why it cannot be, or None. `active`: the pods that keep theirs."""
        async with self._lock:
            containers = (*pod.spec.init_containers, *pod.spec.containers)
            common, taken = self._policy.decide(self._pod_hints(pod)) if self._of_pods else (None, True)
            if not taken:
                return _refusal(TOPOLOGY, "Resources cannot be allocated with Topology locality")
            for container in containers:
                affinity = common
                if not self._of_pods:
                    affinity, taken = self._policy.decide(self._hints(pod, container))
                if not taken:
                    return _refusal(TOPOLOGY, "Resources cannot be allocated with Topology locality")
                try:
                    await self._allocate(pod, container, active, affinity)
                except SMTAlignmentError as error:
                    return _refusal(SMT, str(error))
                except (AllocationError, NotEnoughCPUs, NotEnoughMemory) as error:
                    return _refusal(UNEXPECTED, f"Allocate failed due to {error}, which is unexpected")
        return None

    @property
    def _of_pods(self) -> bool:
        return self._policy.scope == "pod"

    async def _allocate(
        self, pod: Pod, container: AnyContainer, active: Collection[PodUID], affinity: Nodes | None
    ) -> None:
        await self.devices.allocate(pod, container, active, affinity)
        if self.cpus.allocate(pod, container, active, affinity):
            self._moved.set()
        self.memory.allocate(pod, container, active, affinity)

    def _hints(self, pod: Pod, container: AnyContainer) -> list[Sequence[Hint]]:
        """The hints of every resource of one container that has any."""
        if self._policy.name == "none":
            return []
        cpus = self.cpus.hints(pod, container)
        return [
            *self.devices.hints(pod, container),
            *([cpus] if cpus is not None else []),
            *self.memory.hints(pod, container).values(),
        ]

    def _pod_hints(self, pod: Pod) -> list[Sequence[Hint]]:
        """The hints of what all containers of a pod need together."""
        if self._policy.name == "none" or not pod.spec.containers:
            return []
        first = pod.spec.containers[0]
        cpus = _together(pod, lambda c: {"cpu": self.cpus.wanted(pod, c)}).get("cpu", 0)
        memory = _together(pod, lambda c: self.memory.wanted(pod, c))
        devices = _together(pod, self.devices.wanted)
        near = self.cpus.hints(pod, first, cpus) if cpus else None
        return [
            *self.devices.hints(pod, first, devices),
            *([near] if near is not None else []),
            *self.memory.hints(pod, first, memory).values(),
        ]

    # -- start, life, end ----------------------------------------------------------------------------

    async def run_options(self, pod: Pod, container: AnyContainer) -> RunOptions:
        """What a container that is about to start gets. Raises AllocationError."""
        uid = uid_of(pod)
        options = RunOptions(cpus=self.cpus.cpuset(uid, container.name), mems=self.memory.mems(uid, container.name))
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

    async def keep_cpusets(self, running: Running, update: Update, period: float) -> None:
        """Move containers to the CPUs they may use, when those change and every `period` seconds, until cancelled."""
        if not self.cpus.static:
            return
        while True:
            self._moved.clear()
            await self._apply_cpusets(running, update)
            waiting = asyncio.ensure_future(self._moved.wait())
            sleeping = asyncio.ensure_future(self._clock.sleep(period))
            try:
                await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                sleeping.cancel()

    async def _apply_cpusets(self, running: Running, update: Update) -> None:
        found = list(running())
        self._applied = {id_: self._applied.get(id_, "") for _, _, id_ in found}
        for uid, name, container_id in found:
            wanted = self.cpus.cpuset(uid, name)
            if self._applied[container_id] != wanted:
                try:
                    await update(container_id, cri.LinuxContainerResources(cpuset_cpus=wanted))
                    self._applied[container_id] = wanted
                except CRIError as error:
                    log.info("moving container %s of pod %s to CPUs %s failed: %s", name, uid, wanted, error)

    def amounts(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """(capacity, allocatable) of what is only known while the kubelet runs."""
        return self.devices.amounts()

    def unchangeable(self, pod: Pod) -> str:
        """Why the pod's resources cannot be changed while it runs; "" when they can."""
        names = [container.name for container in (*pod.spec.init_containers, *pod.spec.containers)]
        if any(self.cpus.exclusive(uid_of(pod), name) for name in names):
            return "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"
        if any(self.memory.blocks(uid_of(pod), name) for name in names):
            return "Resize is infeasible for Guaranteed Pods alongside Memory Manager static policy"
        return ""

    def release(self, uid: PodUID) -> None:
        """The pod has ended: what it had is free."""
        self.devices.release(uid)
        self.memory.release(uid)
        if self.cpus.release(uid):
            self._moved.set()


def _together(pod: Pod, amounts: Callable[[AnyContainer], Mapping[str, int]]) -> dict[str, int]:
    """What a pod needs at once: its containers and sidecars, or its largest init container if that is more."""
    lasting: dict[str, int] = {}
    largest: dict[str, int] = {}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        passing = container in pod.spec.init_containers and not is_sidecar(container)
        for name, amount in amounts(container).items():
            if passing:
                largest[name] = max(largest.get(name, 0), amount)
            else:
                lasting[name] = lasting.get(name, 0) + amount
    return {name: max(lasting.get(name, 0), largest.get(name, 0)) for name in {*lasting, *largest}}


def _refusal(reason: str, message: str) -> Verdict:
    return Verdict(reason=reason, message=REJECTED + message)
