"""The node's CSI, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import Node
from tiphys.api.storage.v1 import CSIDriver
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.base.tasks import Supervised
from tiphys.client import Client, SharedInformer
from tiphys.kubelet.csi.attach import Attachments
from tiphys.kubelet.csi.drivers import Drivers
from tiphys.kubelet.csi.limits import LimitReports
from tiphys.kubelet.csi.mounter import Mounter, Tools
from tiphys.kubelet.csi.nodes import NodeObjects
from tiphys.kubelet.csi.staging import Staging
from tiphys.kubelet.csi.volumes import InlineCSI, PersistentCSI
from tiphys.kubelet.paths import Paths
from tiphys.kubelet.plugins.registry import PluginHandler, PluginRegistry
from tiphys.kubelet.volumes.token import TokenManager
from tiphys.machinery.errors import StatusError

log = get_logger(__name__)

RETRY: Final = 1.0  # seconds


class CSI:
    """What the kubelet has of CSI: volume kinds to mount, the volumes in use, and the registration of drivers."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        driver_objects: SharedInformer[CSIDriver],
        tokens: TokenManager,
        paths: Paths,
        node_name: str,
    ) -> None:
        self._clock = clock
        self._node: Callable[[], Node | None] = lambda: None
        self._report: Callable[[], None] = lambda: None
        self._nodes = NodeObjects(client, clock, node_name)
        self._registry_directory: Path = paths.root / "plugins_registry"
        self.drivers = Drivers(self._nodes)
        self.attachments = Attachments(client, clock, lambda: self._node(), lambda: self._report())
        driver_objects.add_handler(
            self._driver_seen, lambda _, new: self._driver_seen(new), lambda old: self._driver_seen(old, gone=True)
        )
        self._staging = Staging(self.drivers, self.attachments, paths, clock)
        self.mounter = Mounter(
            Tools(
                client=client,
                drivers=self.drivers,
                driver_objects=driver_objects,
                attachments=self.attachments,
                staging=self._staging,
                tokens=tokens,
                paths=paths,
                node_name=node_name,
            )
        )
        self._limits = LimitReports(self.drivers, driver_objects, clock)
        self.other_handlers: dict[str, PluginHandler] = {}  # of plugins that are no drivers, by type
        self.persistent = PersistentCSI(self.mounter)
        self.inline = InlineCSI(self.mounter)

    def bind(self, node: Callable[[], Node | None], report: Callable[[], None]) -> None:
        """Where the Node is seen, and how its status is written soon."""
        self._node, self._report = node, report

    def _driver_seen(self, driver: CSIDriver, *, gone: bool = False) -> None:
        wants = gone or driver.spec.attach_required is not False
        self.attachments.driver_changed(driver.metadata.name, wants_attaching=wants)

    async def run(self) -> None:
        """Register drivers, until cancelled. The Node must be registered."""
        while True:
            try:
                await self._nodes.ensure()
                break
            except (StatusError, OSError) as error:
                log.warning("making the CSINode failed: %s", error)
                await self._clock.sleep(RETRY)
        handlers: Mapping[str, PluginHandler] = {Drivers.TYPE: self.drivers, **self.other_handlers}
        registry = PluginRegistry(self._registry_directory, handlers, self._clock)
        try:
            async with Supervised(self._clock) as tasks:
                tasks.spawn(registry.run, name="plugin registration")
                tasks.spawn(self._staging.run, name="unstaging")
                tasks.spawn(self._limits.run, name="CSI volume limits")
                await tasks.wait()
        finally:
            await self.drivers.close()
