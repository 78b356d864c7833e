"""Removes what a pod leaves behind: dead containers while it runs, everything once it is gone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tiphys.api.core.v1 import Pod
from tiphys.base.log import get_logger
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer, RuntimePod
from tiphys.kubelet.mounts import unmount_below
from tiphys.kubelet.pod import PodUID, uid_of
from tiphys.kubelet.pods.services import PodServices

log = get_logger(__name__)


def superseded(runtime: RuntimePod) -> Iterator[RuntimeContainer]:
    """Ended containers nobody asks for any more: of each name, all but the newest and the one before it."""
    seen: dict[str, int] = {}
    for container in runtime.containers:  # newest first
        if seen.get(container.name, 0) >= 2 and container.exited:
            yield container
        seen[container.name] = seen.get(container.name, 0) + 1


async def collect_dead(services: PodServices, pod: Pod, runtime: RuntimePod) -> None:
    """Remove superseded containers with their logs, and sandboxes of earlier attempts."""
    for container in superseded(runtime):
        with suppress(CRIError):
            await services.runtime.remove_container(container.id)
            await asyncio.to_thread(_remove_files, container)
    for sandbox in runtime.sandboxes[1:]:
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
    """Remove a pod's own directory and its logs; a mount that is left in it is taken away first."""
    if pod.is_dir():
        unmount_below(pod)
        shutil.rmtree(pod)
    shutil.rmtree(logs, ignore_errors=True)


def stale_directories(pods: Path, known: set[PodUID]) -> list[PodUID]:
    """The pods that have a directory and no worker."""
    if not pods.is_dir():
        return []
    return [PodUID(entry.name) for entry in pods.iterdir() if entry.is_dir() and entry.name not in known]


def _remove_files(container: RuntimeContainer) -> None:
    if container.log_path:
        path = Path(container.log_path)
        for file in (path, *path.parent.glob(f"{path.name}.*")):
            file.unlink(missing_ok=True)
