"""Keeps container logs small: `containerLogMaxSize` a file, `containerLogMaxFiles` files a container.

https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation. The full file is renamed
to `<log>.<time>`, the runtime opens a new one; older files are compressed, the oldest removed.
"""

from __future__ import annotations

import asyncio
import gzip
import shutil
from datetime import datetime
from pathlib import Path
from typing import Final

from tiphys.base.log import get_logger
from tiphys.kubelet.cri.client import CRIError
from tiphys.kubelet.cri.state import RuntimeContainer
from tiphys.kubelet.pods.manager import PodManager
from tiphys.kubelet.pods.services import PodServices
from tiphys.machinery.quantity import Quantity

log = get_logger(__name__)

INTERVAL: Final = 10.0  # seconds
TIME_FORMAT: Final = "%Y%m%d-%H%M%S"


class LogRotation:
    """Rotates the logs of running containers."""

    def __init__(self, services: PodServices, manager: PodManager) -> None:
        self._services = services
        self._manager = manager
        self._size = Quantity.parse(services.config.container_log_max_size).value()

    async def run(self) -> None:
        """Look every ten seconds until cancelled."""
        while True:
            await self._services.clock.sleep(INTERVAL)
            containers = [c for w in self._manager.workers.values() for c in w.runtime.containers if c.running]
            for container in await asyncio.to_thread(self._large, containers):
                try:
                    await self._rotate(container)
                except (CRIError, OSError) as error:
                    log.warning("rotating the log of container %s failed: %s", container.id, error)

    def _large(self, containers: list[RuntimeContainer]) -> list[RuntimeContainer]:
        return [c for c in containers if c.log_path and _size(Path(c.log_path)) >= self._size]

    async def _rotate(self, container: RuntimeContainer) -> None:
        path = Path(container.log_path)
        await asyncio.to_thread(tidy, path, self._services.config.container_log_max_files)
        rotated = rotated_name(path, self._services.clock.now())
        await asyncio.to_thread(path.rename, rotated)
        try:
            await self._services.runtime.reopen_log(container.id)
        except CRIError:
            await asyncio.to_thread(rotated.rename, path)  # the runtime still writes to it
            raise


def rotated_name(path: Path, now: datetime) -> Path:
    return path.with_name(f"{path.name}.{now.strftime(TIME_FORMAT)}")


def tidy(path: Path, max_files: int) -> None:
    """Make room for one more rotated file: compress all but the newest, remove the oldest. Reads and writes files."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"))
    for file in [file for file in rotated if file.suffix == ".tmp"]:
        file.unlink(missing_ok=True)
        rotated.remove(file)
    # With the file in use and the one about to be rotated there may be two fewer.
    keep = max(0, max_files - 2)
    for file in rotated[: len(rotated) - keep]:
        file.unlink(missing_ok=True)
    # The newest stays as it is: a follower may still be reading it.
    for file in rotated[len(rotated) - keep :][:-1] if keep else []:
        if file.suffix != ".gz":
            _compress(file)


def _compress(file: Path) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    with file.open("rb") as source, gzip.open(temporary, "wb") as target:
        shutil.copyfileobj(source, target)
    temporary.rename(file.with_name(f"{file.name}.gz"))
    file.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
