"""Brings one container up: image, configuration, create, start, postStart. The story of a start, top-down."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from tiphys.api.core.v1 import ConfigMap, EphemeralContainer, Pod, Secret
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containermanager import RunOptions
from tiphys.kubelet.containers import errors
from tiphys.kubelet.containers.config import ContainerInputs, container_config
from tiphys.kubelet.containers.env import EnvContext, container_environment
from tiphys.kubelet.containers.errors import ConfigError, StartError
from tiphys.kubelet.containers.hooks import HookError, run_hook
from tiphys.kubelet.containers.hosts import hosts_file
from tiphys.kubelet.containers.limits import container_resources
from tiphys.kubelet.containers.mounts import hosts_mount, message_mount, volume_devices, volume_mounts
from tiphys.kubelet.containers.service_env import service_environment
from tiphys.kubelet.containers.termination import new_message_file
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.devices.ledger import AllocationError
from tiphys.kubelet.dra.manager import PrepareError
from tiphys.kubelet.pod import AnyContainer, uid_of
from tiphys.kubelet.pods.services import PodServices
from tiphys.kubelet.volumes.manager import PodVolumes
from tiphys.machinery.errors import StatusError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a container goes: its sandbox, the pod's addresses and volumes."""

    sandbox_id: str
    sandbox_config: cri.PodSandboxConfig
    pod_ips: tuple[str, ...]
    volumes: PodVolumes


async def start_container(
    services: PodServices, pod: Pod, container: AnyContainer, runtime: RuntimePod, place: Place
) -> None:
    """Start `container` anew. Raises StartError, whose reason the container then waits for.

    CRIError when the runtime went away meanwhile: how far it got is only known once it is back.
    """
    emit = partial(services.event, pod, container=container)
    secrets = await services.pull_secrets(pod)
    try:
        image = await services.images.ensure(
            pod, container.image, container.image_pull_policy, secrets, place.sandbox_config, emit
        )
    except StartError as error:
        emit("Warning", "Failed", f"Error: {error.reason}")
        raise
    try:
        config = await _configuration(services, pod, container, image, runtime, place)
    except ConfigError as error:
        emit("Warning", "Failed", f"Error: {error.message}")
        raise
    except (OSError, StatusError) as error:
        emit("Warning", "Failed", f"Error: {error}")
        raise ConfigError(str(error)) from error
    try:
        container_id = await services.runtime.create_container(place.sandbox_id, config, place.sandbox_config)
    except CRIError as error:
        if error.unavailable:
            raise
        emit("Warning", "Failed", f"Error: {error.description}")
        raise StartError(errors.CREATE_CONTAINER_ERROR, error.description) from error
    emit("Normal", "Created", "Container created")
    try:
        await services.runtime.start_container(container_id)
    except CRIError as error:
        if error.unavailable:
            raise
        emit("Warning", "Failed", f"Error: {error.description}")
        raise StartError(errors.RUN_CONTAINER_ERROR, error.description) from error
    emit("Normal", "Started", "Container started")
    await _post_start(services, pod, container, container_id, place)


async def _configuration(
    services: PodServices,
    pod: Pod,
    container: AnyContainer,
    image: cri.Image,
    runtime: RuntimePod,
    place: Place,
) -> cri.ContainerConfig:
    try:
        options = await services.containers.run_options(pod, container)
        options.cdi += services.claims.devices_for(pod, container)
    except (AllocationError, PrepareError) as error:
        raise ConfigError(str(error)) from error
    environment = await _environment(services, pod, container, place)
    last = runtime.container(container.name)
    restart_count = last.restart_count + 1 if last is not None else _remembered_restarts(pod, container)
    mounts, message_file = await asyncio.to_thread(_mounts, services, pod, container, environment, place)
    mounts += await _image_mounts(services, pod, container, place)
    users = await asyncio.to_thread(services.users.of, uid_of(pod)) if pod.spec.host_users is False else None
    if users is not None:
        for mount in mounts:
            mount.uidMappings.append(users.mapping())
            mount.gidMappings.append(users.mapping())
    target = ""
    if isinstance(container, EphemeralContainer) and container.target_container_name:
        found = runtime.container(container.target_container_name)
        if found is None or not found.running:
            raise ConfigError(f"unable to find target container {container.target_container_name}")
        target = found.id
    return container_config(
        pod,
        container,
        ContainerInputs(
            image=image,
            restart_count=restart_count,
            # What a device needs is said last, and cannot be lost to a variable of the pod.
            environment={**environment, **options.environment},
            mounts=[*mounts, *options.mounts],
            devices=[*volume_devices(container, place.volumes), *options.devices],
            annotations=options.annotations,
            cdi_devices=options.cdi,
            resources=_placed(
                options,
                pod,
                container,
                memory_capacity=services.node.memory_bytes,
                cfs_quota=services.config.cpu_cfs_quota,
                cfs_period=services.config.cpu_cfs_quota_period,
                unified=services.cgroups.unified,
            ),
            termination_file=message_file,
            target_id=target,
            users=users,
        ),
    )


def _placed(options: RunOptions, pod: Pod, container: AnyContainer, **settings: Any) -> cri.LinuxContainerResources:
    """The limits of the container, and the CPUs and memory nodes it may use."""
    resources = container_resources(pod, container, **settings)
    resources.cpuset_cpus, resources.cpuset_mems = options.cpus, options.mems
    return resources


def _remembered_restarts(pod: Pod, container: AnyContainer) -> int:
    """The next count for a container of which the runtime has nothing left: the API remembers its runs."""
    for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
        if status.name == container.name:
            return status.restart_count + 1 if status.container_id else status.restart_count
    return 0


async def _environment(services: PodServices, pod: Pod, container: AnyContainer, place: Place) -> dict[str, str]:
    links = pod.spec.enable_service_links is not False
    context = EnvContext(
        config_map=partial(services.objects.get, ConfigMap),
        secret=partial(services.objects.get, Secret),
        services=service_environment(services.services.list(), pod.metadata.namespace, links=links),
        pod_ips=place.pod_ips,
        host_ips=services.node.host_ips,
        allocatable=services.node.allocatable,
        volumes={name: mounted.path for name, mounted in place.volumes.mounted.items()},
    )
    return await container_environment(pod, container, context)


def _mounts(
    services: PodServices, pod: Pod, container: AnyContainer, environment: dict[str, str], place: Place
) -> tuple[list[cri.Mount], str]:
    mounts = volume_mounts(pod, container, place.volumes, environment, services.paths)
    content = hosts_file(pod, place.pod_ips, services.config.cluster_domain, services.node.hosts)
    hosts = hosts_mount(pod, container, content, services.paths)
    if hosts is not None:
        mounts.append(hosts)
    if not container.termination_message_path:
        return mounts, ""
    file = new_message_file(services.paths.containers(uid_of(pod)) / container.name)
    return [*mounts, message_mount(container, file)], str(file)


async def _image_mounts(services: PodServices, pod: Pod, container: AnyContainer, place: Place) -> list[cri.Mount]:
    """Mounts of image volumes: the runtime mounts them, we make sure that the image is there."""
    mounts = []
    volumes = {volume.name: volume.image for volume in pod.spec.volumes if volume.image is not None}
    for mount in container.volume_mounts:
        source = volumes.get(mount.name)
        if source is None:
            continue
        image = await services.images.ensure(
            pod,
            source.reference,
            source.pull_policy,
            await services.pull_secrets(pod),
            place.sandbox_config,
            partial(services.event, pod, container=container),
        )
        mounts.append(
            cri.Mount(
                container_path=mount.mount_path,
                image=cri.ImageSpec(image=image.id, user_specified_image=source.reference),
                image_sub_path=mount.sub_path,
                readonly=True,
            )
        )
    return mounts


async def _post_start(
    services: PodServices, pod: Pod, container: AnyContainer, container_id: str, place: Place
) -> None:
    handler = container.lifecycle.post_start if container.lifecycle else None
    if handler is None:
        return
    address = place.pod_ips[0] if place.pod_ips else ""
    try:
        await run_hook(services.runtime, services.clock, handler, container, container_id, address)
    except HookError as error:
        services.event(pod, "Warning", "FailedPostStartHook", f"PostStartHook failed: {error}", container)
        services.event(pod, "Normal", "Killing", f"FailedPostStartHook: stopping container {container.name}", container)
        grace = pod.spec.termination_grace_period_seconds
        await services.runtime.stop_container(container_id, 30 if grace is None else grace)
        raise StartError(errors.POST_START_HOOK_ERROR, f"PostStartHook failed: {error}") from error
