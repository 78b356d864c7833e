"""The CRI description of one container of a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from tiphys.api.core.v1 import Pod
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containers.expansion import expand
from tiphys.kubelet.containers.security import container_security
from tiphys.kubelet.cri.labels import container_annotations, container_labels
from tiphys.kubelet.paths import log_path
from tiphys.kubelet.pod import AnyContainer
from tiphys.kubelet.usernamespaces import IDs


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInputs:
    """What a container's description is made of besides the pod."""

    image: cri.Image
    restart_count: int
    environment: Mapping[str, str]
    mounts: Sequence[cri.Mount]
    resources: cri.LinuxContainerResources
    devices: Sequence[cri.Device] = field(default=())
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_devices: Sequence[str] = field(default=())
    termination_file: str = ""
    extra_groups: Sequence[int] = field(default=())
    target_id: str = ""
    users: IDs | None = None  # who the pod's users are on the node, where it has its own


def container_config(pod: Pod, container: AnyContainer, inputs: ContainerInputs) -> cri.ContainerConfig:
    """The request for a container. Raises ConfigError when the image breaks runAsNonRoot."""
    security = container_security(
        pod,
        container,
        inputs.image,
        extra_groups=inputs.extra_groups,
        target_id=inputs.target_id,
        users=inputs.users,
    )
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=container.name, attempt=inputs.restart_count),
        image=cri.ImageSpec(image=inputs.image.id, user_specified_image=container.image),
        command=[expand(word, inputs.environment) for word in container.command],
        args=[expand(word, inputs.environment) for word in container.args],
        working_dir=container.working_dir,
        envs=[
            cri.KeyValue(key=name, value=value.encode(errors="surrogateescape"))
            for name, value in inputs.environment.items()
        ],
        mounts=inputs.mounts,
        devices=inputs.devices,
        labels=container_labels(pod, container),
        annotations={
            **inputs.annotations,
            **container_annotations(pod, container, inputs.restart_count, inputs.termination_file),
        },
        CDI_devices=[cri.CDIDevice(name=name) for name in inputs.cdi_devices],
        log_path=log_path(container.name, inputs.restart_count),
        stdin=bool(container.stdin),
        stdin_once=bool(container.stdin_once),
        tty=bool(container.tty),
        linux=cri.LinuxContainerConfig(resources=inputs.resources, security_context=security),
    )
    if container.lifecycle is not None and container.lifecycle.stop_signal:
        config.stop_signal = _signal(container.lifecycle.stop_signal)
    return config


def _signal(name: str) -> cri.Signal:
    descriptor = cri.Signal.DESCRIPTOR.values_by_name.get(name)
    return cast("cri.Signal", descriptor.number) if descriptor is not None else cri.RUNTIME_DEFAULT
