"""The pod resources API: who has which devices, device claims, CPUs and memory, for monitoring agents on the node.

https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#monitoring-device-plugin-resources
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from tiphys.api.core.v1 import Pod
from tiphys.api.podresources import api_pb2 as api
from tiphys.api.podresources import api_pb2_grpc
from tiphys.kubelet.containermanager import ContainerManager
from tiphys.kubelet.dra.manager import ClaimManager
from tiphys.kubelet.dra.prepared import PreparedClaim
from tiphys.kubelet.memorymanager.manager import Block
from tiphys.kubelet.pod import PodUID, is_sidecar, uid_of

SOCKET: Final = "pod-resources/kubelet.sock"


class PodResources(api_pb2_grpc.PodResourcesListerServicer):
    """Answers from the books of container and claim manager. `pods`: the active pods of the node."""

    def __init__(
        self, root: Path, manager: ContainerManager, claims: ClaimManager, pods: Callable[[], Sequence[Pod]]
    ) -> None:
        self._path = root / SOCKET
        self._manager = manager
        self._claims = claims
        self._pods = pods

    async def run(self) -> None:
        """Serve until cancelled."""
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        server = grpc.aio.server()
        api_pb2_grpc.add_PodResourcesListerServicer_to_server(self, server)
        server.add_insecure_port(f"unix://{self._path}")
        await server.start()
        try:
            await server.wait_for_termination()
        finally:
            await server.stop(None)

    async def List(self, request: api.ListPodResourcesRequest, context: Any) -> api.ListPodResourcesResponse:
        return api.ListPodResourcesResponse(pod_resources=[self._of(pod) for pod in self._pods()])

    async def Get(self, request: api.GetPodResourcesRequest, context: Any) -> api.GetPodResourcesResponse:
        for pod in self._pods():
            if (pod.metadata.name, pod.metadata.namespace) == (request.pod_name, request.pod_namespace):
                return api.GetPodResourcesResponse(pod_resources=self._of(pod))
        said = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
        await context.abort(grpc.StatusCode.UNKNOWN, said)
        raise AssertionError  # abort has raised

    async def GetAllocatableResources(
        self, request: api.AllocatableResourcesRequest, context: Any
    ) -> api.AllocatableResourcesResponse:
        found = [
            api.ContainerDevices(resource_name=resource, device_ids=[device.id], topology=_topology(device.numa_nodes))
            for resource, device in self._manager.devices.all_devices()
        ]
        return api.AllocatableResourcesResponse(
            devices=found,
            cpu_ids=sorted(self._manager.cpus.allocatable),
            memory=[_memory(block) for block in self._manager.memory.allocatable()],
        )

    def _of(self, pod: Pod) -> api.PodResources:
        containers = [*filter(is_sidecar, pod.spec.init_containers), *pod.spec.containers]
        return api.PodResources(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            containers=[
                api.ContainerResources(
                    name=item.name,
                    devices=list(self._devices(uid_of(pod), item.name)),
                    cpu_ids=sorted(self._manager.cpus.exclusive(uid_of(pod), item.name)),
                    memory=[_memory(block) for block in self._manager.memory.blocks(uid_of(pod), item.name)],
                    dynamic_resources=[_claim(claim, request) for claim, request in self._claims.held_by(pod, item)],
                )
                for item in containers
            ],
        )

    def _devices(self, uid: PodUID, container: str) -> Iterator[api.ContainerDevices]:
        for resource, holding in self._manager.devices.holdings(uid, container).items():
            places: dict[frozenset[int], list[str]] = {}
            for device in sorted(holding.devices):
                places.setdefault(holding.numa_nodes.get(device, frozenset()), []).append(device)
            for nodes, ids in places.items():
                yield api.ContainerDevices(resource_name=resource, device_ids=ids, topology=_topology(nodes))


def _claim(claim: PreparedClaim, request: str) -> api.DynamicResource:
    return api.DynamicResource(
        claim_name=claim.name,
        claim_namespace=claim.namespace,
        claim_resources=[
            api.ClaimResource(
                cdi_devices=[api.CDIDevice(name=name) for name in device.cdi],
                driver_name=driver,
                pool_name=device.pool,
                device_name=device.device,
                share_id=device.share or None,
            )
            for driver, device in claim.devices_for(request)
        ],
    )


def _memory(block: Block) -> api.ContainerMemory:
    return api.ContainerMemory(memory_type=block.type, size=block.size, topology=_topology(block.nodes))


def _topology(nodes: Iterable[int]) -> api.TopologyInfo | None:
    found = [api.NUMANode(ID=node) for node in sorted(nodes)]
    return api.TopologyInfo(nodes=found) if found else None
