"""The calls the kubelet makes to its runtime, over gRPC on a unix socket.

Every failure is a CRIError worded as a Kubernetes user knows it (`rpc error: code = … desc = …`).
Short calls have a deadline (`runtimeRequestTimeout`, two minutes); pulls, stops and exec their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from tiphys.api.cri import api_pb2 as cri
from tiphys.api.cri import api_pb2_grpc
from tiphys.kubelet.cri import labels
from tiphys.kubelet.cri.operations import operation
from tiphys.kubelet.cri.state import (
    RuntimeContainer,
    RuntimePod,
    RuntimeSandbox,
    container_from,
    newest_first,
    sandbox_from,
)
from tiphys.kubelet.pod import PodUID

REQUEST_TIMEOUT: Final = 120.0  # seconds
# gRPC's own limit is 4 MiB, less than a long list of containers; upstream raises it to this.
MAX_MESSAGE: Final = 16 * 1024 * 1024
# An ExecSync without a limit of its own must still end.
STOP_MARGIN: Final = 120.0

R = TypeVar("R")


class CRIError(Exception):
    """A call that the runtime refused or could not answer."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"rpc error: code = {code} desc = {description}")
        self.code = code
        self.description = description

    @property
    def not_found(self) -> bool:
        return self.code == "NotFound"

    @property
    def unavailable(self) -> bool:
        """Nobody answers: the runtime has gone, with or without having done what it was asked."""
        return self.code == "Unavailable"


class CRIClient:
    """One connection to a runtime serving RuntimeService and ImageService."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._channel = grpc.aio.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                # The runtime may be restarted at any time: be back within a moment of it.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # Proxies of the environment are not for a local socket.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self.runtime = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self.images = api_pb2_grpc.ImageServiceStub(self._channel)
        # What has exited does not change any more: asked once, kept until it is removed.
        self._exited: dict[str, RuntimeContainer] = {}
        self._tells_of_containers = True  # with the status of their sandbox; known after the first one

    async def close(self) -> None:
        await self._channel.close()

    # -- state -------------------------------------------------------------------------------------

    async def version(self) -> cri.VersionResponse:
        return await _call("version", self.runtime.Version(cri.VersionRequest(version="v1"), timeout=REQUEST_TIMEOUT))

    async def status(self) -> cri.StatusResponse:
        return await _call("status", self.runtime.Status(cri.StatusRequest(), timeout=REQUEST_TIMEOUT))

    async def snapshot(self) -> dict[PodUID, frozenset[tuple[str, int]]]:
        """The ids and states of everything of every pod: cheap to make and to compare."""
        sandboxes, containers = await self._lists(None)
        found: dict[PodUID, set[tuple[str, int]]] = {}
        everything: list[cri.PodSandbox | cri.Container] = [*sandboxes, *containers]
        for item in everything:
            if uid := item.labels.get(labels.POD_UID):
                found.setdefault(PodUID(uid), set()).add((item.id, item.state))
        return {uid: frozenset(marks) for uid, marks in found.items()}

    async def pod(self, uid: PodUID) -> RuntimePod:
        """Everything of one pod, read now."""
        sandboxes, containers = await self._lists(uid)
        listed = sorted(sandboxes, key=lambda item: (item.created_at, item.metadata.attempt), reverse=True)
        states = [sandbox_from(item) for item in listed]
        newest, found = await asyncio.gather(
            self._sandbox_status(states[0]) if states else _nothing(),
            asyncio.gather(*(self._container_status(item) for item in containers)),
        )
        if newest is not None:
            states[0] = newest
        everything: list[cri.PodSandbox | cri.Container] = [*sandboxes, *containers]
        owner = dict(everything[0].labels) if everything else {}
        return RuntimePod(
            uid=uid,
            name=owner.get(labels.POD_NAME, ""),
            namespace=owner.get(labels.POD_NAMESPACE, ""),
            sandboxes=tuple(states),
            containers=newest_first(item for item in found if item is not None),
        )

    async def pod_in(self, uid: PodUID, sandbox_id: str) -> RuntimePod | None:
        """Everything of a pod that has no other sandbox than this one, read now and in one call.

        None when the sandbox is gone, or the runtime does not tell of a sandbox's containers with it.
        """
        if not self._tells_of_containers:
            return None
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        try:
            answer = await _call("podsandbox_status", self.runtime.PodSandboxStatus(request, timeout=REQUEST_TIMEOUT))
        except CRIError as error:
            if error.not_found:
                return None
            raise
        # Only a runtime that has filled in the containers tells when it did.
        self._tells_of_containers = answer.timestamp > 0
        if not self._tells_of_containers:
            return None
        containers = [self._remembered(status) for status in answer.containers_statuses]
        owner = answer.status.labels
        return RuntimePod(
            uid=uid,
            name=owner.get(labels.POD_NAME, ""),
            namespace=owner.get(labels.POD_NAMESPACE, ""),
            sandboxes=(sandbox_from(answer.status),),
            containers=newest_first(containers),
        )

    def _remembered(self, status: cri.ContainerStatus) -> RuntimeContainer:
        container = self._exited.get(status.id) or container_from(status)
        if container.exited:
            self._exited[container.id] = container
        return container

    async def _lists(self, uid: PodUID | None) -> tuple[list[cri.PodSandbox], list[cri.Container]]:
        selector = {labels.POD_UID: uid} if uid else {}
        sandboxes, containers = await asyncio.gather(
            _call(
                "list_podsandbox",
                self.runtime.ListPodSandbox(
                    cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(label_selector=selector)),
                    timeout=REQUEST_TIMEOUT,
                ),
            ),
            _call(
                "list_containers",
                self.runtime.ListContainers(
                    cri.ListContainersRequest(filter=cri.ContainerFilter(label_selector=selector)),
                    timeout=REQUEST_TIMEOUT,
                ),
            ),
        )
        return list(sandboxes.items), list(containers.containers)

    async def _sandbox_status(self, listed: RuntimeSandbox) -> RuntimeSandbox | None:
        try:
            answer = await _call(
                "podsandbox_status",
                self.runtime.PodSandboxStatus(
                    cri.PodSandboxStatusRequest(pod_sandbox_id=listed.id), timeout=REQUEST_TIMEOUT
                ),
            )
        except CRIError as error:
            if error.not_found:  # removed between the two calls
                return replace(listed, ready=False)
            raise
        return sandbox_from(answer.status)

    async def _container_status(self, listed: cri.Container) -> RuntimeContainer | None:
        if listed.state == cri.CONTAINER_EXITED and listed.id in self._exited:
            return self._exited[listed.id]
        try:
            answer = await _call(
                "container_status",
                self.runtime.ContainerStatus(
                    cri.ContainerStatusRequest(container_id=listed.id), timeout=REQUEST_TIMEOUT
                ),
            )
        except CRIError as error:
            if error.not_found:
                return None
            raise
        return self._remembered(answer.status)

    async def events(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """The runtime's stream of container events; CRIError when it ends or is not implemented."""
        stream: Any = self.runtime.GetContainerEvents(cri.GetEventsRequest())
        counted, began = operation("get_container_events"), time.perf_counter()
        try:
            async for event in stream:
                yield event
        except grpc.aio.AioRpcError as error:
            counted.failed()
            raise _translate(error) from error
        except asyncio.CancelledError:
            if _is_ours():
                raise
            counted.failed()
            raise CRIError("Canceled", "the runtime ended the stream") from None
        finally:
            stream.cancel()
            counted.ended(time.perf_counter() - began)

    # -- sandboxes ---------------------------------------------------------------------------------

    async def run_sandbox(self, config: cri.PodSandboxConfig, handler: str = "") -> str:
        """Create and start a sandbox; returns its id."""
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=handler)
        # Network plugins may be slow: twice the usual patience, as upstream.
        return (
            await _call("run_podsandbox", self.runtime.RunPodSandbox(request, timeout=REQUEST_TIMEOUT * 2))
        ).pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await _gone_is_fine(
            "stop_podsandbox",
            self.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), timeout=REQUEST_TIMEOUT),
        )

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove a stopped sandbox and what is left of its containers."""
        await _gone_is_fine(
            "remove_podsandbox",
            self.runtime.RemovePodSandbox(
                cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id), timeout=REQUEST_TIMEOUT
            ),
        )

    # -- containers --------------------------------------------------------------------------------

    async def create_container(
        self, sandbox_id: str, config: cri.ContainerConfig, sandbox_config: cri.PodSandboxConfig
    ) -> str:
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox_config)
        return (
            await _call("create_container", self.runtime.CreateContainer(request, timeout=REQUEST_TIMEOUT))
        ).container_id

    async def start_container(self, container_id: str) -> None:
        await _call(
            "start_container",
            self.runtime.StartContainer(cri.StartContainerRequest(container_id=container_id), timeout=REQUEST_TIMEOUT),
        )

    async def stop_container(self, container_id: str, grace: float) -> None:
        """Ask the container to end, and after `grace` seconds make it; returns when it has ended."""
        request = cri.StopContainerRequest(container_id=container_id, timeout=max(0, int(grace)))
        await _gone_is_fine("stop_container", self.runtime.StopContainer(request, timeout=grace + STOP_MARGIN))

    async def remove_container(self, container_id: str) -> None:
        request = cri.RemoveContainerRequest(container_id=container_id)
        await _gone_is_fine("remove_container", self.runtime.RemoveContainer(request, timeout=REQUEST_TIMEOUT))
        self._exited.pop(container_id, None)

    def forget(self, containers: tuple[RuntimeContainer, ...]) -> None:
        """Drop what is remembered of containers that went with their sandbox."""
        for container in containers:
            self._exited.pop(container.id, None)

    async def exec_sync(self, container_id: str, command: list[str], timeout: float) -> cri.ExecSyncResponse:
        """Run a command to its end; `timeout` 0 is no limit. A run over it raises CRIError DeadlineExceeded."""
        request = cri.ExecSyncRequest(container_id=container_id, cmd=command, timeout=int(timeout))
        return await _call(
            "exec_sync", self.runtime.ExecSync(request, timeout=timeout + STOP_MARGIN if timeout else None)
        )

    async def exec_url(self, request: cri.ExecRequest) -> str:
        return (await _call("exec", self.runtime.Exec(request, timeout=REQUEST_TIMEOUT))).url

    async def attach_url(self, request: cri.AttachRequest) -> str:
        return (await _call("attach", self.runtime.Attach(request, timeout=REQUEST_TIMEOUT))).url

    async def port_forward_url(self, sandbox_id: str, ports: list[int]) -> str:
        request = cri.PortForwardRequest(pod_sandbox_id=sandbox_id, port=ports)
        return (await _call("port_forward", self.runtime.PortForward(request, timeout=REQUEST_TIMEOUT))).url

    async def update_resources(self, container_id: str, linux: cri.LinuxContainerResources) -> None:
        request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=linux)
        await _call("update_container", self.runtime.UpdateContainerResources(request, timeout=REQUEST_TIMEOUT))

    async def update_sandbox_resources(self, sandbox_id: str, linux: cri.LinuxContainerResources) -> None:
        """Tell the runtime what the pod has now; a runtime that does not care does not have the call."""
        request = cri.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox_id, resources=linux)
        try:
            await _call(
                "update_podsandbox_resources", self.runtime.UpdatePodSandboxResources(request, timeout=REQUEST_TIMEOUT)
            )
        except CRIError as error:
            if error.code != "Unimplemented":
                raise

    async def reopen_log(self, container_id: str) -> None:
        request = cri.ReopenContainerLogRequest(container_id=container_id)
        await _call("reopen_container_log", self.runtime.ReopenContainerLog(request, timeout=REQUEST_TIMEOUT))

    async def set_pod_cidr(self, cidr: str) -> None:
        config = cri.RuntimeConfig(network_config=cri.NetworkConfig(pod_cidr=cidr))
        await _call(
            "update_runtime_config",
            self.runtime.UpdateRuntimeConfig(
                cri.UpdateRuntimeConfigRequest(runtime_config=config), timeout=REQUEST_TIMEOUT
            ),
        )

    # -- images and statistics ---------------------------------------------------------------------

    async def image(self, spec: cri.ImageSpec) -> cri.Image | None:
        """The image by this name as the runtime has it, or None."""
        answer = await _call(
            "image_status", self.images.ImageStatus(cri.ImageStatusRequest(image=spec), timeout=REQUEST_TIMEOUT)
        )
        return answer.image if answer.HasField("image") and answer.image.id else None

    async def list_images(self) -> list[cri.Image]:
        return list(
            (
                await _call("list_images", self.images.ListImages(cri.ListImagesRequest(), timeout=REQUEST_TIMEOUT))
            ).images
        )

    async def pull_image(
        self, spec: cri.ImageSpec, auth: cri.AuthConfig | None, sandbox_config: cri.PodSandboxConfig
    ) -> str:
        """Pull, however long it takes; returns the reference of what came."""
        request = cri.PullImageRequest(image=spec, auth=auth, sandbox_config=sandbox_config)
        return (await _call("pull_image", self.images.PullImage(request))).image_ref

    async def remove_image(self, spec: cri.ImageSpec) -> None:
        await _call(
            "remove_image", self.images.RemoveImage(cri.RemoveImageRequest(image=spec), timeout=REQUEST_TIMEOUT)
        )

    async def image_fs(self) -> cri.ImageFsInfoResponse:
        return await _call("image_fs_info", self.images.ImageFsInfo(cri.ImageFsInfoRequest(), timeout=REQUEST_TIMEOUT))

    async def pod_stats(self) -> list[cri.PodSandboxStats]:
        answer = await _call(
            "list_podsandbox_stats",
            self.runtime.ListPodSandboxStats(cri.ListPodSandboxStatsRequest(), timeout=REQUEST_TIMEOUT),
        )
        return list(answer.stats)

    async def container_stats(self) -> list[cri.ContainerStats]:
        answer = await _call(
            "list_container_stats",
            self.runtime.ListContainerStats(cri.ListContainerStatsRequest(), timeout=REQUEST_TIMEOUT),
        )
        return list(answer.stats)


async def _call(name: str, call: Awaitable[R]) -> R:
    """Wait for a call, counted and timed as the operation `name`. Raises CRIError."""
    counted, began = operation(name), time.perf_counter()
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        counted.failed()
        raise _translate(error) from error
    except asyncio.CancelledError:
        if _is_ours():
            raise
        counted.failed()
        raise CRIError("Canceled", "the runtime ended the call") from None
    finally:
        counted.ended(time.perf_counter() - began)


def _is_ours() -> bool:
    """Whether a CancelledError means this task: gRPC raises the same when the server cancels a call."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _gone_is_fine(name: str, call: Awaitable[Any]) -> None:
    try:
        await _call(name, call)
    except CRIError as error:
        if not error.not_found:
            raise


def _translate(error: grpc.aio.AioRpcError) -> CRIError:
    # NOT_FOUND → NotFound, as Go prints a code.
    code = "".join(part.capitalize() for part in error.code().name.split("_"))
    return CRIError(code, error.details() or "")


async def _nothing() -> None:
    return None
