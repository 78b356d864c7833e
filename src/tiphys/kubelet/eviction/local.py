"""Local storage that a pod has set itself limits for: the sizeLimit of emptyDir volumes on disk, and ephemeral-storage.

https://kubernetes.io/docs/concepts/storage/ephemeral-storage/#resource-emphemeralstorage-consumption. Volumes in
memory are limited by their own file system.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tiphys.api.core.v1 import Container, Pod
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import uid_of
from tiphys.kubelet.volumes.empty_dir import EmptyDirPlugin
from tiphys.machinery.quantity import Quantity

BLOCK = 512  # unit of st_blocks, stat(2)
EPHEMERAL: Final = "ephemeral-storage"
# What evictions for it are counted as, beside the node's own signals.
EMPTY_DIR_LIMIT: Final = "emptydirfs.limit"
POD_LIMIT: Final = "ephemeralpodfs.limit"
CONTAINER_LIMIT: Final = "ephemeralcontainerfs.limit"


class Excess(NamedTuple):
    """A limit that was passed: its signal, and words for the pod's status."""

    signal: str
    message: str


def has_limits(pod: Pod) -> bool:
    """Whether a container limits its ephemeral storage, so that writable layers have to be measured."""
    return any(not _limit(container).is_zero() for container in pod.spec.containers)


def over_limit(pod: Pod, paths: Paths, layers: Mapping[str, int]) -> Excess | None:
    """What of the pod is over its limit; None when nothing is. Walks volumes and logs.

    `layers`: bytes in the writable layer by container name.
    """
    volumes = {
        volume.name: disk_usage(paths.volume(uid_of(pod), EmptyDirPlugin.name, volume.name))
        for volume in pod.spec.volumes
        if volume.empty_dir is not None and volume.empty_dir.medium != "Memory"
    }
    for volume in pod.spec.volumes:
        size = volume.empty_dir.size_limit if volume.empty_dir is not None else ""
        if size and volume.name in volumes and 0 < Quantity.parse(size).value() < volumes[volume.name]:
            return Excess(EMPTY_DIR_LIMIT, f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{size}". ')
    if not has_limits(pod):
        return None
    logs = paths.pod_logs(pod)
    used = {one.name: layers.get(one.name, 0) + disk_usage(logs / one.name) for one in pod.spec.containers}
    whole = sum((_limit(container) for container in pod.spec.containers), Quantity.of(0))
    if sum(used.values()) + sum(volumes.values()) > whole.value():
        return Excess(POD_LIMIT, f"Pod ephemeral local storage usage exceeds the total limit of containers {whole}. ")
    for container in pod.spec.containers:
        limit = _limit(container)
        if 0 < limit.value() < used[container.name]:
            message = f'Container {container.name} exceeded its local ephemeral storage limit "{limit}". '
            return Excess(CONTAINER_LIMIT, message)
    return None


def _limit(container: Container) -> Quantity:
    """Zero: none."""
    text = container.resources.limits.get(EPHEMERAL, "") if container.resources is not None else ""
    return Quantity.parse(text) if text else Quantity.of(0)


def disk_usage(directory: Path) -> int:
    """Bytes that a tree occupies on disk, links to one file counted once; what vanishes meanwhile is passed over."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            identity = (status.st_dev, status.st_ino)
            if identity not in seen:
                seen.add(identity)
                total += status.st_blocks * BLOCK
    return total
