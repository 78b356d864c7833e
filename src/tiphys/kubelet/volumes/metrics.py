"""Counts volumes and times what is done with them: `volume_manager_total_volumes`, `storage_operation_*`.

Volumes are told apart by the full names of their plugins: `kubernetes.io/configmap`, `kubernetes.io/csi:<driver>`.
https://kubernetes.io/docs/reference/instrumentation/metrics/
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tiphys.api.core.v1 import PersistentVolume, Volume
from tiphys.base.metrics import REGISTRY

Series = Iterator[tuple[tuple[str, str], float]]

TOTAL: Final = "volume_manager_total_volumes"
TOTAL_HELP: Final = "[ALPHA] Number of volumes in Volume Manager"
TOTAL_LABELS: Final = ("plugin_name", "state")
OPERATIONS: Final = REGISTRY.histogram(
    "storage_operation_duration_seconds",
    "[ALPHA] Storage operation duration",
    ("migrated", "operation_name", "status", "volume_plugin"),
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600),
)
MOUNT: Final = "volume_mount"
MAP: Final = "map_volume"  # of a block device
UNMOUNT: Final = "volume_unmount"
HOST_PATH: Final = "kubernetes.io/host-path"


def observe(operation: str, plugin: str, began: float, *, succeeded: bool) -> None:
    """An operation has ended that began at that moment of `time.perf_counter`."""
    status = "success" if succeeded else "fail-unknown"
    OPERATIONS.labels("false", operation, status, plugin).observe(time.perf_counter() - began)


class VolumeRecord:
    """What is known of one volume of a pod: who makes it, since when, and where it is once it is there."""

    __slots__ = ("_began", "_operation", "path", "plugin")

    def __init__(self) -> None:
        self.plugin = ""  # until a claim has led to a volume
        self.path: Path | None = None
        self._operation = MOUNT
        self._began = 0.0

    def begin(self, plugin: str, *, block: bool = False) -> None:
        """This plugin makes the volume now, or brings it up to date. `block`: as a device."""
        self.plugin, self._operation = plugin, MAP if block else MOUNT
        self._began = time.perf_counter()

    def end(self, *, succeeded: bool) -> None:
        """The plugin is done; a claim that led nowhere was nobody's operation."""
        if self._began:
            observe(self._operation, self.plugin, self._began, succeeded=succeeded)
            self._began = 0.0


def volume_plugin(name: str, volume: Volume | PersistentVolume) -> str:
    """The full name of the plugin `name` that makes the volume."""
    if isinstance(volume, PersistentVolume):
        if volume.spec.host_path is not None:
            return HOST_PATH
        return f"{name}:{volume.spec.csi.driver}" if volume.spec.csi is not None else name
    return f"{name}:{volume.csi.driver}" if volume.csi is not None else name


def total_volumes(records: Iterable[VolumeRecord]) -> Series:
    """How many volumes of a plugin are wanted, and how many are there."""
    known = [record for record in records if record.plugin]
    for state, found in (
        ("actual_state_of_world", Counter(record.plugin for record in known if record.path is not None)),
        ("desired_state_of_world", Counter(record.plugin for record in known)),
    ):
        for plugin, number in found.items():
            yield (plugin, state), number
