"""Mirror pods: what the API shows of static pods.

https://kubernetes.io/docs/reference/glossary/?all=true#term-mirror-pod. Deleting one in the API only
makes it come back; it goes when its file goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from tiphys.api.core.v1 import Node, Pod, PodStatus
from tiphys.api.meta.v1 import ObjectMeta, OwnerReference
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import Client, Preconditions, WorkQueue
from tiphys.kubelet.pod import CONFIG_HASH, CONFIG_MIRROR, key_of
from tiphys.machinery.errors import AlreadyExistsError, ConflictError, NotFoundError, StatusError

log = get_logger(__name__)

RETRY: Final = 1.0  # seconds


class MirrorPods:
    """Makes the API's mirrors equal to the static pods, by full name."""

    def __init__(
        self,
        client: Client,
        queue: WorkQueue[str],
        static: Callable[[str], Pod | None],
        mirror: Callable[[str], Pod | None],
        node: Callable[[], Node | None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._queue = queue
        self._static = static
        self._mirror = mirror
        self._node = node
        self._clock = clock

    def sync(self, name: str) -> None:
        """Something about the static pod or its mirror has changed."""
        self._queue.add(name)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            name = await self._queue.get()
            try:
                await self._reconcile(name)
                self._queue.forget(name)
            except (StatusError, OSError) as error:
                log.warning("mirror pod %s: %s", name, error)
                self._queue.add_rate_limited(name)
            finally:
                self._queue.done(name)

    async def _reconcile(self, name: str) -> None:
        static, mirror = self._static(name), self._mirror(name)
        if mirror is not None:
            current = static is not None and mirror.metadata.annotations.get(CONFIG_MIRROR) == static.metadata.uid
            if current and mirror.metadata.deletion_timestamp is None:
                return
            try:
                await self._client.delete(
                    Pod, key_of(mirror), grace_period_seconds=0, only_if=Preconditions(uid=mirror.metadata.uid)
                )
            except (NotFoundError, ConflictError):
                pass
            # Its removal is seen in the cache and brings us here again.
            return
        if static is not None:
            try:
                await self._client.create(mirror_of(static, self._node()))
            except AlreadyExistsError:
                return


def mirror_of(static: Pod, node: Node | None) -> Pod:
    """The mirror of a static pod, owned by its node."""
    owner: tuple[OwnerReference, ...] = ()
    if node is not None:
        owner = (
            OwnerReference(
                api_version="v1", kind="Node", name=node.metadata.name, uid=node.metadata.uid, controller=True
            ),
        )
    metadata = ObjectMeta(
        name=static.metadata.name,
        namespace=static.metadata.namespace,
        labels=static.metadata.labels,
        annotations={
            **static.metadata.annotations,
            CONFIG_MIRROR: static.metadata.annotations.get(CONFIG_HASH, static.metadata.uid),
        },
        owner_references=owner,
    )
    return replace(static, metadata=metadata, status=PodStatus())
