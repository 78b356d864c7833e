"""Removes what a pod leaves behind: dead containers while it runs, everything once it is gone."""

from __future__ import annotations

import asyncio
import glob
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.base.metrics import REGISTRY
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod, RuntimeSandbox
from tiphys.kubelet.mounts import unmount_below
from tiphys.kubelet.paths import Paths, log_directory
from tiphys.kubelet.pod import PodUID, uid_of
from tiphys.kubelet.pods.services import PodServices

log = get_logger(__name__)

# Of the last look for orphans, which goes on in the background; https://kubernetes.io/docs/reference/instrumentation/metrics/
ORPHANS_CLEANED: Final = REGISTRY.gauge(
    "kubelet_orphan_pod_cleaned_volumes",
    "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.",
)
ORPHANS_LEFT: Final = REGISTRY.gauge(
    "kubelet_orphan_pod_cleaned_volumes_errors",
    "[ALPHA] The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep.",
)


def superseded(runtime: RuntimePod) -> Iterator[RuntimeContainer]:
    """Ended containers nobody asks for any more: of each name, all but the newest and the one before it."""
    seen: dict[str, int] = {}
    for container in runtime.containers:  # newest first
        if seen.get(container.name, 0) >= 2 and container.exited:
            yield container
        seen[container.name] = seen.get(container.name, 0) + 1


def empty_sandboxes(runtime: RuntimePod) -> Iterator[RuntimeSandbox]:
    """Sandboxes before the current one without containers: a runtime takes a sandbox's containers away with it.

    A container lies in the sandbox that was the newest when it was made.
    """
    for newer, sandbox in itertools.pairwise(runtime.sandboxes):  # newest first
        if not any(sandbox.created_at <= container.created_at < newer.created_at for container in runtime.containers):
            yield sandbox


async def collect_dead(services: PodServices, pod: Pod, runtime: RuntimePod) -> None:
    """Remove superseded containers with their logs, and sandboxes of earlier attempts that hold none any more."""
    for container in superseded(runtime):
        with suppress(CRIError):
            await services.runtime.remove_container(container.id)
            await asyncio.to_thread(_remove_files, container)
    for sandbox in empty_sandboxes(runtime):
        if not sandbox.ready:
            with suppress(CRIError):
                await services.runtime.remove_sandbox(sandbox.id)


async def remove_traces(services: PodServices, pod: Pod, runtime: RuntimePod) -> None:
    """Remove sandboxes, containers, logs and files of a pod that has ended. Raises CRIError, OSError."""
    for container in runtime.containers:
        await services.runtime.remove_container(container.id)
    for sandbox in runtime.sandboxes:
        await services.runtime.remove_sandbox(sandbox.id)
    services.runtime.forget(runtime.containers)
    await asyncio.to_thread(remove_directories, services.paths.pod(uid_of(pod)), services.paths.pod_logs(pod))


def remove_directories(pod: Path, logs: Path) -> None:
    """Remove a pod's logs and its own directory; a mount that is left in it is taken away first.

    Its own directory goes last: as long as it is there, whoever comes after a crash knows that something is left.
    """
    shutil.rmtree(logs, ignore_errors=True)
    if pod.is_dir():
        unmount_below(pod)
        shutil.rmtree(pod)


def stale_directories(paths: Paths, known: set[PodUID]) -> set[PodUID]:
    """The pods that have a directory of their own or one of logs, and no worker."""
    found = {PodUID(name) for name in _directories(paths.pods)}
    found |= {PodUID(name.rpartition("_")[2]) for name in _directories(paths.logs) if name.count("_") == 2}
    return found - known


def stale_logs(paths: Paths, uid: PodUID) -> Path:
    """The directory of logs of a pod whose name nobody knows any more; one that is not there when it has none."""
    return next(paths.logs.glob(f"*_*_{glob.escape(uid)}"), paths.logs / log_directory("", "", uid))


def _directories(parent: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_files(container: RuntimeContainer) -> None:
    if container.log_path:
        path = Path(container.log_path)
        for file in (path, *path.parent.glob(f"{path.name}.*")):
            file.unlink(missing_ok=True)
