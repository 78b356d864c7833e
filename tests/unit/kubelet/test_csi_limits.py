"""How often drivers are asked for their limits."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from tiphys.api.storage.v1 import CSIDriver, CSIDriverSpec
from tiphys.base.clock import FakeClock
from tiphys.client import SharedInformer
from tiphys.kubelet.csi.drivers import Drivers
from tiphys.kubelet.csi.limits import LimitReports
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.machinery.meta import ObjectName


class Reports:
    """Two drivers; one fails when it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def names(self) -> list[str]:
        return ["changes", "fails", "stays"]

    async def report(self, name: str) -> None:
        self.asked.append(name)
        if name == "fails":
            raise VolumeError("not now")


async def test_each_driver_is_asked_as_often_as_its_object_says() -> None:
    specs = {
        ObjectName("", "changes"): CSIDriver(spec=CSIDriverSpec(node_allocatable_update_period_seconds=30)),
        ObjectName("", "fails"): CSIDriver(spec=CSIDriverSpec(node_allocatable_update_period_seconds=10)),
    }
    clock, drivers = FakeClock(), Reports()
    objects = cast("SharedInformer[CSIDriver]", SimpleNamespace(lister=specs))
    running = asyncio.ensure_future(LimitReports(cast("Drivers", drivers), objects, clock).run())
    for _ in range(6):
        await asyncio.sleep(0)
        await clock.advance(10)
    running.cancel()
    await asyncio.wait({running})
    assert drivers.asked.count("changes") == 2
    assert drivers.asked.count("fails") == 6
    assert "stays" not in drivers.asked
