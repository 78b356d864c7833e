"""The mounts of a container: its volumes, its /etc/hosts, its termination message. Blocks on the file system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Pod, VolumeMount
from tiphys.api.cri import api_pb2 as cri
from tiphys.kubelet.containers.errors import ConfigError
from tiphys.kubelet.containers.expansion import expand_strictly
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import AnyContainer, uid_of
from tiphys.kubelet.volumes.manager import PodVolumes
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.kubelet.volumes.subpath import bind_subpath

HOSTS: Final = "/etc/hosts"
_PROPAGATIONS: Final = {
    "": cri.PROPAGATION_PRIVATE,
    "None": cri.PROPAGATION_PRIVATE,
    "HostToContainer": cri.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": cri.PROPAGATION_BIDIRECTIONAL,
}


def volume_mounts(
    pod: Pod, container: AnyContainer, volumes: PodVolumes, environment: Mapping[str, str], paths: Paths
) -> list[cri.Mount]:
    """The mounts of the container's volumeMounts, except those of image volumes. Raises ConfigError."""
    mounts = []
    for index, mount in enumerate(container.volume_mounts):
        volume = volumes.mounted.get(mount.name)
        if volume is None:
            if any(item.name == mount.name and item.image is not None for item in pod.spec.volumes):
                continue
            raise ConfigError(f'cannot find volume "{mount.name}" to mount into container "{container.name}"')
        source = volume.path
        subpath = _subpath(mount, environment)
        if subpath:
            target = paths.subpaths(uid_of(pod)) / mount.name / container.name / str(index)
            try:
                source = bind_subpath(volume.path, subpath, target)
            except (VolumeError, OSError) as error:
                raise ConfigError(
                    f'failed to prepare subPath for volumeMount "{mount.name}" of container "{container.name}": {error}'
                ) from error
        mounts.append(
            cri.Mount(
                container_path=mount.mount_path if os.path.isabs(mount.mount_path) else f"/{mount.mount_path}",
                host_path=str(source),
                readonly=bool(mount.read_only) or volume.read_only,
                propagation=_PROPAGATIONS.get(mount.mount_propagation or "", cri.PROPAGATION_PRIVATE),
                recursive_read_only=bool(mount.read_only)
                and (mount.recursive_read_only or "") in ("Enabled", "IfPossible"),
            )
        )
    return mounts


def volume_devices(container: AnyContainer, volumes: PodVolumes) -> list[cri.Device]:
    """The block devices of the container's volumeDevices. Raises ConfigError."""
    devices = []
    for wanted in container.volume_devices:
        volume = volumes.mounted.get(wanted.name)
        if volume is None or not volume.device:
            raise ConfigError(f'cannot find volume "{wanted.name}" to pass into container "{container.name}"')
        devices.append(
            cri.Device(
                container_path=wanted.device_path,
                host_path=str(volume.path),
                permissions="r" if volume.read_only else "mrw",
            )
        )
    return devices


def hosts_mount(pod: Pod, container: AnyContainer, content: str, paths: Paths) -> cri.Mount | None:
    """Write the pod's hosts file and mount it, unless the container brings its own."""
    if any(os.path.normpath(mount.mount_path) == HOSTS for mount in container.volume_mounts):
        return None
    path = paths.hosts(uid_of(pod))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o644)
    return cri.Mount(container_path=HOSTS, host_path=str(path))


def message_mount(container: AnyContainer, file: Path) -> cri.Mount:
    """The file behind the termination message."""
    return cri.Mount(container_path=container.termination_message_path, host_path=str(file))


def _subpath(mount: VolumeMount, environment: Mapping[str, str]) -> str:
    if not mount.sub_path_expr:
        return mount.sub_path
    try:
        return expand_strictly(mount.sub_path_expr, environment)
    except KeyError as error:
        raise ConfigError(f'missing value for "{error.args[0]}"') from error
