"""Static pods: manifests in a directory of the node.

https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/. A pod's uid is the hash of its
content, so that an edited file is another pod under the same name; its name ends in the node's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from msgspec.structs import replace

from tiphys.api.codec import from_dict
from tiphys.api.core.v1 import Container, Pod, Toleration
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.kubelet.inotify import DIRECTORY_CHANGES, Inotify
from tiphys.kubelet.pod import CONFIG_HASH, CONFIG_SEEN, CONFIG_SOURCE, PodUID, spec_hash, uid_of
from tiphys.kubelet.waiting import wait_event
from tiphys.machinery.time import format_time

log = get_logger(__name__)

SOURCE: Final = "file"


class ManifestError(ValueError):
    """The file holds no pod that can run; the message says why."""


class StaticPods:
    """Follows the directory; calls `on_add(pod)` and `on_remove(uid)`."""

    def __init__(
        self,
        directory: Path,
        node_name: str,
        clock: Clock,
        every: float,
        on_add: Callable[[Pod], None],
        on_remove: Callable[[PodUID, Pod], None],
    ) -> None:
        self._directory = directory
        self._node_name = node_name
        self._clock = clock
        self._every = every
        self._on_add = on_add
        self._on_remove = on_remove
        self._known: dict[PodUID, Pod] = {}
        self.read_once = asyncio.Event()

    async def run(self) -> None:
        """Read, then read again when something has changed, and from time to time anyway."""
        changed = asyncio.Event()
        while True:
            with Inotify(changed.set) as inotify:
                try:
                    inotify.watch(self._directory, DIRECTORY_CHANGES)
                except OSError:
                    log.debug("static pod directory %s is not there", self._directory)
                changed.clear()
                await self.read()
                self.read_once.set()
                await wait_event(changed, self._clock, self._every)

    async def read(self) -> None:
        """Compare the directory with what is known."""
        found = await asyncio.to_thread(read_directory, self._directory, self._node_name)
        for uid in [uid for uid in self._known if uid not in found]:
            self._on_remove(uid, self._known.pop(uid))
        for uid, pod in found.items():
            if uid not in self._known:
                self._known[uid] = pod
                self._on_add(pod)


def read_directory(directory: Path, node_name: str) -> dict[PodUID, Pod]:
    """The pods of every manifest in the directory; hidden files and broken ones are left out."""
    pods: dict[PodUID, Pod] = {}
    if not directory.is_dir():
        return pods
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        try:
            pod = read_manifest(path.read_bytes(), node_name)
        except (ManifestError, OSError) as error:
            log.error("static pod manifest %s: %s", path, error)
            continue
        pods[uid_of(pod)] = pod
    return pods


def read_manifest(content: bytes, node_name: str) -> Pod:
    """The pod of a manifest in YAML or JSON, with its defaults. Raises ManifestError."""
    try:
        document: Any = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ManifestError(f"not YAML: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "Pod" or document.get("apiVersion") != "v1":
        raise ManifestError("not a v1 Pod")
    try:
        pod = from_dict(Pod, document, strict=False)
    except (msgspec.ValidationError, TypeError) as error:  # a key that JSON has not, such as null
        raise ManifestError(str(error)) from error
    if not pod.metadata.name or not pod.spec.containers:
        raise ManifestError("a pod needs a name and at least one container")
    return _as_static(pod, node_name)


def _as_static(pod: Pod, node_name: str) -> Pod:
    uid = pod.metadata.uid or spec_hash(pod)
    metadata = replace(
        pod.metadata,
        uid=uid,
        name=f"{pod.metadata.name}-{node_name}",
        namespace=pod.metadata.namespace or "default",
        annotations={
            **pod.metadata.annotations,
            CONFIG_SOURCE: SOURCE,
            CONFIG_HASH: uid,
            CONFIG_SEEN: format_time(datetime.now(UTC)),
        },
    )
    spec = replace(
        pod.spec,
        node_name=node_name,
        restart_policy=pod.spec.restart_policy or "Always",
        dns_policy=pod.spec.dns_policy or "ClusterFirst",
        enable_service_links=pod.spec.enable_service_links is not False,
        containers=tuple(map(_with_defaults, pod.spec.containers)),
        init_containers=tuple(map(_with_defaults, pod.spec.init_containers)),
        # Whatever is wrong with the node, what its owner put there stays.
        tolerations=(*pod.spec.tolerations, Toleration(operator="Exists", effect="NoExecute")),
    )
    return replace(pod, metadata=metadata, spec=spec)


def _with_defaults(container: Container) -> Container:
    """The defaults that the API server would have filled in and the kubelet relies on."""
    tagged = container.image.rpartition(":")[2]
    latest = tagged == "latest" or "/" in tagged or ":" not in container.image
    return replace(
        container,
        image_pull_policy=container.image_pull_policy or ("Always" if latest else "IfNotPresent"),
        termination_message_path=container.termination_message_path or "/dev/termination-log",
        termination_message_policy=container.termination_message_policy or "File",
    )
