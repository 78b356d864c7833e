"""Local storage that a pod has set itself a limit for: the sizeLimit of emptyDir volumes on disk.

https://kubernetes.io/docs/concepts/storage/ephemeral-storage/#resource-emphemeralstorage-consumption. Volumes in
memory are limited by their own file system.
"""

from __future__ import annotations

import os
from pathlib import Path

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.pod import uid_of
from tiphys.kubelet.volumes.empty_dir import EmptyDirPlugin
from tiphys.machinery.quantity import Quantity

BLOCK = 512  # unit of st_blocks, stat(2)


def over_limit(pod: Pod, paths: Paths) -> str:
    """Which volume of the pod is over its limit, worded for its status; "" when none is. Walks the volumes."""
    for volume in pod.spec.volumes:
        source = volume.empty_dir
        if source is None or source.medium == "Memory" or not source.size_limit:
            continue
        limit = Quantity.parse(source.size_limit).value()
        used = disk_usage(paths.volume(uid_of(pod), EmptyDirPlugin.name, volume.name))
        if limit > 0 and used > limit:
            return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{source.size_limit}". '
    return ""


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
