"""Keeps the number of volumes a node can have in its CSINode current, for drivers where that changes.

A CSIDriver says how often in nodeAllocatableUpdatePeriodSeconds (10 at least); without it the number of
the registration stays. https://kubernetes.io/docs/concepts/storage/storage-limits/
"""

from __future__ import annotations

from typing import Final

from tiphys.api.storage.v1 import CSIDriver
from tiphys.base.clock import Clock
from tiphys.base.log import get_logger
from tiphys.client import SharedInformer
from tiphys.kubelet.csi.drivers import Drivers
from tiphys.kubelet.volumes.plugin import VolumeError
from tiphys.machinery.errors import StatusError
from tiphys.machinery.meta import ObjectName

log = get_logger(__name__)

TURN: Final = 10.0  # seconds: the shortest period there is


class LimitReports:
    """Reports each driver's limit when its time has come."""

    def __init__(self, drivers: Drivers, objects: SharedInformer[CSIDriver], clock: Clock) -> None:
        self._drivers = drivers
        self._objects = objects
        self._clock = clock
        self._reported: dict[str, float] = {}  # when, by driver

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._clock.sleep(TURN)
            for name in self._drivers.names():
                found = self._objects.lister.get(ObjectName("", name))
                period = found.spec.node_allocatable_update_period_seconds if found is not None else None
                if period:
                    await self._report(name, period)

    async def _report(self, name: str, period: int) -> None:
        now = self._clock.monotonic()
        if now - self._reported.setdefault(name, now - TURN) < period:
            return
        self._reported[name] = now
        try:
            await self._drivers.report(name)
        except (VolumeError, StatusError, OSError) as error:
            log.warning("reporting how many volumes of %s the node can have failed: %s", name, error)
