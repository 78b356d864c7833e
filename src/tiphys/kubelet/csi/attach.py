"""Volumes that are attached before they are mounted, in a protocol with the attach/detach controller.

```
 kubelet                               controller                          external-attacher
 node.status.volumesInUse += v  ──┐
                                  ├──  VolumeAttachment made    ────────►   ControllerPublishVolume
                                  │    node.status.volumesAttached += v ◄── status.attached
 mounts v, with the attachment's metadata
 ... unmounts v
 node.status.volumesInUse -= v  ─────► VolumeAttachment deleted ────────►   ControllerUnpublishVolume
```
A volume in use is not detached, so it is reported before anything of it is mounted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from tiphys.api.core.v1 import Node
from tiphys.api.storage.v1 import VolumeAttachment
from tiphys.base.clock import Clock
from tiphys.client import Client
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.kubelet.waiting import within
from tiphys.machinery.errors import NotFoundError
from tiphys.machinery.meta import ObjectName

TIMEOUT: Final = 120.0  # seconds; the mount is then tried anew
LOOK_EVERY: Final = 0.5  # at an attachment that the Node already has: it cannot be watched


def unique_name(driver: str, handle: str) -> str:
    """The volume as node statuses name it."""
    return f"kubernetes.io/csi/{driver}^{handle}"


def attachment_name(driver: str, handle: str, node: str) -> str:
    """The VolumeAttachment of a volume on a node."""
    return "csi-" + sha256(f"{handle}{driver}{node}".encode()).hexdigest()


class Attachments:
    """The attached volumes of this node. `node` gives the Node as last seen, `report` has its status written soon."""

    def __init__(
        self, client: Client, clock: Clock, node: Callable[[], Node | None], report: Callable[[], None]
    ) -> None:
        self._client = client
        self._clock = clock
        self._node = node
        self._report = report
        self._users: dict[str, set[str]] = {}  # pods by volume
        self._unattached: set[str] = set()  # drivers that say they need no attaching
        self._seen = asyncio.Event()

    def in_use(self) -> tuple[str, ...]:
        """For the Node's volumesInUse."""
        vain = tuple(unique_name(driver, "") for driver in self._unattached)
        return tuple(sorted(name for name in self._users if not name.startswith(vain)))

    def driver_changed(self, driver: str, *, wants_attaching: bool) -> None:
        """A driver does without from now on, or does not any more: its volumes are in use in vain, or again."""
        before = self.in_use()
        (self._unattached.discard if wants_attaching else self._unattached.add)(driver)
        if self.in_use() != before:
            self._report()
        self.look_again()

    def look_again(self) -> None:
        """The Node has changed, or what drivers want."""
        seen, self._seen = self._seen, asyncio.Event()
        seen.set()

    def hold(self, driver: str, handle: str, pod: str) -> None:
        """The pod uses the volume from now on: it must not be detached."""
        users = self._users.setdefault(unique_name(driver, handle), set())
        if not users:
            self._report()
        users.add(pod)

    def release(self, driver: str, handle: str, pod: str) -> None:
        """The pod does not use it any more."""
        name = unique_name(driver, handle)
        users = self._users.get(name)
        if users is not None:
            users.discard(pod)
            if not users:
                del self._users[name]
                self._report()

    async def wait(
        self, driver: str, handle: str, attachment: str, still_wanted: Callable[[], bool]
    ) -> Mapping[str, str] | None:
        """The metadata of the attachment, once the volume is attached; None when that is not wanted any more.

        `still_wanted` is asked whenever `look_again` was called. Raises VolumeError when it takes too long.
        """
        try:
            return await within(
                self._attached(unique_name(driver, handle), attachment, still_wanted), self._clock, TIMEOUT
            )
        except TimeoutError:
            said = f"timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}"
            raise VolumeError(said) from None

    async def _attached(self, name: str, attachment: str, still_wanted: Callable[[], bool]) -> Mapping[str, str] | None:
        while not self._is_on_node(name):
            if not still_wanted():
                return None
            await self._seen.wait()
        while True:
            try:
                found = await self._client.get(VolumeAttachment, ObjectName("", attachment))
            except NotFoundError:
                found = VolumeAttachment()
            if found.status.attached:
                return found.status.attachment_metadata
            await self._clock.sleep(LOOK_EVERY)

    def _is_on_node(self, name: str) -> bool:
        node = self._node()
        if node is None or name not in node.status.volumes_in_use:
            return False
        return any(one.name == name for one in node.status.volumes_attached)
