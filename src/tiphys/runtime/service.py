"""RuntimeService of CRI v1: each call in terms of sandboxes, containers, streams and statistics.

Answers to calls that change something are sent when the change is on disk. A client that goes away does not
interrupt a change half way: it is carried through, and the next list shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from tiphys import __version__
from tiphys.api.cri import api_pb2
from tiphys.base.log import get_logger
from tiphys.runtime import convert
from tiphys.runtime.container import Container
from tiphys.runtime.containers import Containers
from tiphys.runtime.errors import InvalidArgument, NotFound, Unimplemented
from tiphys.runtime.exec import Execs
from tiphys.runtime.node import Node, now
from tiphys.runtime.sandboxes import Sandbox, Sandboxes
from tiphys.runtime.stats import Stats
from tiphys.runtime.streaming import AttachTarget, ExecTarget, PortForwardTarget, StreamingServer

log = get_logger(__name__)

T = TypeVar("T")

_EVENTS = {
    "created": api_pb2.CONTAINER_CREATED_EVENT,
    "started": api_pb2.CONTAINER_STARTED_EVENT,
    "running": api_pb2.CONTAINER_STARTED_EVENT,
    "exited": api_pb2.CONTAINER_STOPPED_EVENT,
    "stopped": api_pb2.CONTAINER_STOPPED_EVENT,
    "deleted": api_pb2.CONTAINER_DELETED_EVENT,
}


class RuntimeService:
    """The servicer; `server` registers its methods by name."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.containers = Containers(node, self._container_changed)
        self.sandboxes = Sandboxes(node, self.containers, self._sandbox_changed)
        self.execs = Execs(node)
        self.streams = StreamingServer(node, self.execs, self.containers)
        self._stats = Stats(node)

    # ---- the runtime itself

    async def Version(self, request: api_pb2.VersionRequest, context: Any) -> api_pb2.VersionResponse:
        return api_pb2.VersionResponse(
            version="0.1.0", runtime_name="tiphys", runtime_version=__version__, runtime_api_version="v1"
        )

    async def Status(self, request: api_pb2.StatusRequest, context: Any) -> api_pb2.StatusResponse:
        network = self._node.network.status()
        features = api_pb2.RuntimeHandlerFeatures(
            recursive_read_only_mounts=True, user_namespaces=not self._node.machine.no_user_namespaces
        )
        handlers = ["", *self._node.options.runtimes]
        return api_pb2.StatusResponse(
            status=api_pb2.RuntimeStatus(
                conditions=[
                    api_pb2.RuntimeCondition(type="RuntimeReady", status=True),
                    api_pb2.RuntimeCondition(
                        type="NetworkReady", status=network.ready, reason=network.reason, message=network.message
                    ),
                ]
            ),
            runtime_handlers=[api_pb2.RuntimeHandler(name=name, features=features) for name in handlers],
            features=api_pb2.RuntimeFeatures(supplemental_groups_policy=True),
            info={"root": str(self._node.options.root)} if request.verbose else {},
        )

    async def RuntimeConfig(self, request: Any, context: Any) -> api_pb2.RuntimeConfigResponse:
        return api_pb2.RuntimeConfigResponse(linux=api_pb2.LinuxRuntimeConfiguration(cgroup_driver=api_pb2.CGROUPFS))

    async def UpdateRuntimeConfig(
        self, request: api_pb2.UpdateRuntimeConfigRequest, context: Any
    ) -> api_pb2.UpdateRuntimeConfigResponse:
        pod_cidr = request.runtime_config.network_config.pod_cidr
        if pod_cidr:
            await self._node.network.update_config(pod_cidr)
        return api_pb2.UpdateRuntimeConfigResponse()

    # ---- sandboxes

    async def RunPodSandbox(self, request: api_pb2.RunPodSandboxRequest, context: Any) -> api_pb2.RunPodSandboxResponse:
        sandbox = await self._through(self.sandboxes.run(request.config, request.runtime_handler))
        return api_pb2.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    async def StopPodSandbox(
        self, request: api_pb2.StopPodSandboxRequest, context: Any
    ) -> api_pb2.StopPodSandboxResponse:
        sandbox = self._sandbox_or_none(request.pod_sandbox_id)
        if sandbox is not None:
            await self._through(self.sandboxes.stop(sandbox))
        return api_pb2.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: api_pb2.RemovePodSandboxRequest, context: Any
    ) -> api_pb2.RemovePodSandboxResponse:
        sandbox = self._sandbox_or_none(request.pod_sandbox_id)
        if sandbox is not None:
            await self._through(self.sandboxes.remove(sandbox))
        return api_pb2.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: api_pb2.PodSandboxStatusRequest, context: Any
    ) -> api_pb2.PodSandboxStatusResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        return api_pb2.PodSandboxStatusResponse(
            status=convert.sandbox_status(sandbox),
            info=convert.sandbox_info(sandbox) if request.verbose else {},
            containers_statuses=self._statuses(sandbox.id),
            timestamp=now(),
        )

    async def ListPodSandbox(
        self, request: api_pb2.ListPodSandboxRequest, context: Any
    ) -> api_pb2.ListPodSandboxResponse:
        return api_pb2.ListPodSandboxResponse(items=self._sandbox_items(request.filter))

    async def StreamPodSandboxes(
        self, request: api_pb2.StreamPodSandboxesRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamPodSandboxesResponse]:
        for part in _parts(self._sandbox_items(request.filter)):
            yield api_pb2.StreamPodSandboxesResponse(pod_sandboxes=part)

    async def UpdatePodSandboxResources(self, request: Any, context: Any) -> api_pb2.UpdatePodSandboxResourcesResponse:
        # The kubelet has changed the pod's control group itself; containers are changed one by one.
        self.sandboxes.get(request.pod_sandbox_id)
        return api_pb2.UpdatePodSandboxResourcesResponse()

    # ---- containers

    async def CreateContainer(
        self, request: api_pb2.CreateContainerRequest, context: Any
    ) -> api_pb2.CreateContainerResponse:
        container = await self._through(self._create(request))
        return api_pb2.CreateContainerResponse(container_id=container.id)

    async def _create(self, request: api_pb2.CreateContainerRequest) -> Container:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if not request.config.HasField("metadata"):
            raise InvalidArgument("container config must include metadata")
        joined = self.sandboxes.joined(sandbox, request.config)
        container = await self.containers.create(
            sandbox.record, request.config, sandbox.config, self.sandboxes.files(sandbox), joined
        )
        self._container_changed(container)
        return container

    async def StartContainer(
        self, request: api_pb2.StartContainerRequest, context: Any
    ) -> api_pb2.StartContainerResponse:
        await self._through(self.containers.start(self.containers.get(request.container_id)))
        return api_pb2.StartContainerResponse()

    async def StopContainer(self, request: api_pb2.StopContainerRequest, context: Any) -> api_pb2.StopContainerResponse:
        container = self._container_or_none(request.container_id)
        if container is not None:
            await self.containers.stop(container, request.timeout)
        return api_pb2.StopContainerResponse()

    async def RemoveContainer(
        self, request: api_pb2.RemoveContainerRequest, context: Any
    ) -> api_pb2.RemoveContainerResponse:
        container = self._container_or_none(request.container_id)
        if container is not None:
            await self._through(self.containers.remove(container))
            self._publish(container.id, "deleted", container.record.sandbox_id)
        return api_pb2.RemoveContainerResponse()

    async def ListContainers(
        self, request: api_pb2.ListContainersRequest, context: Any
    ) -> api_pb2.ListContainersResponse:
        return api_pb2.ListContainersResponse(containers=self._container_items(request.filter))

    async def StreamContainers(
        self, request: api_pb2.StreamContainersRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamContainersResponse]:
        for part in _parts(self._container_items(request.filter)):
            yield api_pb2.StreamContainersResponse(containers=part)

    async def ContainerStatus(
        self, request: api_pb2.ContainerStatusRequest, context: Any
    ) -> api_pb2.ContainerStatusResponse:
        container = self.containers.get(request.container_id)
        return api_pb2.ContainerStatusResponse(
            status=convert.container_status(container),
            info=convert.container_info(container) if request.verbose else {},
        )

    async def UpdateContainerResources(
        self, request: api_pb2.UpdateContainerResourcesRequest, context: Any
    ) -> api_pb2.UpdateContainerResourcesResponse:
        container = self.containers.get(request.container_id)
        if request.HasField("linux"):
            await self._through(self.containers.update_resources(container, request.linux))
        return api_pb2.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: api_pb2.ReopenContainerLogRequest, context: Any
    ) -> api_pb2.ReopenContainerLogResponse:
        self.containers.reopen_log(self.containers.get(request.container_id))
        return api_pb2.ReopenContainerLogResponse()

    async def CheckpointContainer(self, request: Any, context: Any) -> api_pb2.CheckpointContainerResponse:
        raise Unimplemented("checkpointing containers needs CRIU, which this runtime does not drive yet")

    # ---- streams

    async def ExecSync(self, request: api_pb2.ExecSyncRequest, context: Any) -> api_pb2.ExecSyncResponse:
        container = self.containers.running(request.container_id)
        done = await self.execs.run(container, list(request.cmd), timeout=request.timeout or None)
        return api_pb2.ExecSyncResponse(stdout=done.stdout, stderr=done.stderr, exit_code=done.code)

    async def Exec(self, request: api_pb2.ExecRequest, context: Any) -> api_pb2.ExecResponse:
        container = self.containers.running(request.container_id)
        _check_streams(request)
        target = ExecTarget(container, tuple(request.cmd), request.tty, request.stdin, request.stdout, request.stderr)
        return api_pb2.ExecResponse(url=self.streams.offer(target))

    async def Attach(self, request: api_pb2.AttachRequest, context: Any) -> api_pb2.AttachResponse:
        container = self.containers.running(request.container_id)
        _check_streams(request)
        target = AttachTarget(container, request.tty, request.stdin, request.stdout, request.stderr)
        return api_pb2.AttachResponse(url=self.streams.offer(target))

    async def PortForward(self, request: api_pb2.PortForwardRequest, context: Any) -> api_pb2.PortForwardResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox.record.state != "ready":
            raise NotFound(f'sandbox "{sandbox.id}" is not running')
        target = PortForwardTarget(sandbox.id, sandbox.record.netns, tuple(request.port))
        return api_pb2.PortForwardResponse(url=self.streams.offer(target))

    # ---- statistics

    async def ContainerStats(
        self, request: api_pb2.ContainerStatsRequest, context: Any
    ) -> api_pb2.ContainerStatsResponse:
        container = self.containers.get(request.container_id)
        return api_pb2.ContainerStatsResponse(stats=await self._stats.container(container))

    async def ListContainerStats(
        self, request: api_pb2.ListContainerStatsRequest, context: Any
    ) -> api_pb2.ListContainerStatsResponse:
        return api_pb2.ListContainerStatsResponse(stats=await self._container_stats(request.filter))

    async def StreamContainerStats(
        self, request: api_pb2.StreamContainerStatsRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamContainerStatsResponse]:
        for part in _parts(await self._container_stats(request.filter)):
            yield api_pb2.StreamContainerStatsResponse(container_stats=part)

    async def _container_stats(self, wanted: api_pb2.ContainerStatsFilter) -> list[api_pb2.ContainerStats]:
        plain = api_pb2.ContainerFilter(
            id=wanted.id, pod_sandbox_id=wanted.pod_sandbox_id, label_selector=wanted.label_selector
        )
        chosen = [x for x in self.containers.all() if x.running and convert.container_matches(plain, x)]
        return [await self._stats.container(container) for container in chosen]

    async def PodSandboxStats(
        self, request: api_pb2.PodSandboxStatsRequest, context: Any
    ) -> api_pb2.PodSandboxStatsResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        running = [container for container in self.containers.of_sandbox(sandbox.id) if container.running]
        return api_pb2.PodSandboxStatsResponse(stats=await self._stats.sandbox(sandbox, running))

    async def ListPodSandboxStats(
        self, request: api_pb2.ListPodSandboxStatsRequest, context: Any
    ) -> api_pb2.ListPodSandboxStatsResponse:
        return api_pb2.ListPodSandboxStatsResponse(stats=await self._sandbox_stats(request.filter))

    async def StreamPodSandboxStats(
        self, request: api_pb2.StreamPodSandboxStatsRequest, context: Any
    ) -> AsyncIterator[api_pb2.StreamPodSandboxStatsResponse]:
        for part in _parts(await self._sandbox_stats(request.filter)):
            yield api_pb2.StreamPodSandboxStatsResponse(pod_sandbox_stats=part)

    async def _sandbox_stats(self, wanted: api_pb2.PodSandboxStatsFilter) -> list[api_pb2.PodSandboxStats]:
        plain = api_pb2.PodSandboxFilter(id=wanted.id, label_selector=wanted.label_selector)
        found = []
        for sandbox in self.sandboxes.all():
            if sandbox.record.state == "ready" and convert.sandbox_matches(plain, sandbox):
                running = [x for x in self.containers.of_sandbox(sandbox.id) if x.running]
                found.append(await self._stats.sandbox(sandbox, running))
        return found

    async def ListMetricDescriptors(self, request: Any, context: Any) -> api_pb2.ListMetricDescriptorsResponse:
        return api_pb2.ListMetricDescriptorsResponse()

    async def ListPodSandboxMetrics(self, request: Any, context: Any) -> api_pb2.ListPodSandboxMetricsResponse:
        return api_pb2.ListPodSandboxMetricsResponse()

    async def StreamPodSandboxMetrics(
        self, request: Any, context: Any
    ) -> AsyncIterator[api_pb2.StreamPodSandboxMetricsResponse]:
        metrics: list[api_pb2.PodSandboxMetrics] = []
        for part in _parts(metrics):
            yield api_pb2.StreamPodSandboxMetricsResponse(pod_sandbox_metrics=part)

    # ---- events

    async def GetContainerEvents(
        self, request: api_pb2.GetEventsRequest, context: Any
    ) -> AsyncIterator[api_pb2.ContainerEventResponse]:
        async for event in self._node.events.listen():
            yield event

    def _container_changed(self, container: Container) -> None:
        kind = container.record.state
        if kind == "exited":
            self.sandboxes.container_ended(container)
        if kind in _EVENTS and not container.record.infra:
            self._publish(container.id, kind, container.record.sandbox_id)

    def _sandbox_changed(self, sandbox: Sandbox, kind: str) -> None:
        self._publish(sandbox.id, kind, sandbox.id)

    def _publish(self, object_id: str, kind: str, sandbox_id: str) -> None:
        if not self._node.events.heard:
            return
        event = api_pb2.ContainerEventResponse(
            container_id=object_id, container_event_type=_EVENTS[kind], created_at=now()
        )
        sandbox = self._sandbox_or_none(sandbox_id)
        if sandbox is not None:
            event.pod_sandbox_status.CopyFrom(convert.sandbox_status(sandbox))
            event.containers_statuses.extend(self._statuses(sandbox_id))
        self._node.events.publish(event)

    # ---- helpers

    async def _through(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry a change through even when its caller goes away; its failure is then only logged."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            try:
                outcome = await change
            except asyncio.CancelledError:
                result.cancel()
                raise
            except Exception as error:
                if result.cancelled():
                    log.warning("a call whose client went away failed: %s", error)
                else:
                    result.set_exception(error)
            else:
                if not result.cancelled():
                    result.set_result(outcome)

        self._node.tasks.spawn(work, name="change")
        return await result

    def _sandbox_or_none(self, sandbox_id: str) -> Sandbox | None:
        try:
            return self.sandboxes.get(sandbox_id)
        except NotFound:
            return None

    def _container_or_none(self, container_id: str) -> Container | None:
        try:
            return self.containers.get(container_id)
        except NotFound:
            return None

    def _statuses(self, sandbox_id: str) -> list[api_pb2.ContainerStatus]:
        return [convert.container_status(x) for x in self.containers.of_sandbox(sandbox_id, infra=False)]

    def _sandbox_items(self, wanted: api_pb2.PodSandboxFilter) -> list[api_pb2.PodSandbox]:
        return [convert.sandbox_item(x) for x in self.sandboxes.all() if convert.sandbox_matches(wanted, x)]

    def _container_items(self, wanted: api_pb2.ContainerFilter) -> list[api_pb2.Container]:
        return [convert.container_item(x) for x in self.containers.all() if convert.container_matches(wanted, x)]


def _check_streams(request: api_pb2.ExecRequest | api_pb2.AttachRequest) -> None:
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr cannot both be true")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("one of stdin, stdout, or stderr must be set")


def _parts(items: list[T], size: int = 100) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
