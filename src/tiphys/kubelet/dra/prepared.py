"""What was prepared on this node, kept over restarts in `dra_manager_state`.

    {"claims": [{"namespace", "name", "uid", "pods": [uid…], "drivers": {"<driver>": [device…]}}]}

A device is {"requests": […], "pool", "device", "cdi": […], "share"}.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tiphys.base.log import get_logger

log = get_logger(__name__)

NAME = "dra_manager_state"


@dataclass(slots=True)
class PreparedDevice:
    """A device that a driver has made ready. `requests`: of the claim; none: all."""

    requests: list[str]
    pool: str
    device: str
    cdi: list[str]
    share: str = ""


@dataclass(slots=True)
class PreparedClaim:
    """A claim, the pods here that use it, and its devices by driver; a driver without devices was asked and may have
    prepared something."""

    namespace: str
    name: str
    uid: str
    pods: list[str] = field(default_factory=list)
    drivers: dict[str, list[PreparedDevice]] = field(default_factory=dict)
    ready: bool = False

    def cdi_for(self, request: str) -> list[str]:
        """CDI names for one request of the claim ("": for all); of alternatives the chosen one counts."""
        return [name for _, device in self.devices_for(request) for name in device.cdi]

    def devices_for(self, request: str) -> list[tuple[str, PreparedDevice]]:
        """(driver, device) for one request of the claim ("": for all)."""
        return [
            (driver, device)
            for driver, devices in self.drivers.items()
            for device in devices
            if not request
            or not device.requests
            or any(asked.partition("/")[0] == request or asked == request for asked in device.requests)
        ]


def load(path: Path) -> dict[str, PreparedClaim]:
    """By uid; nothing when there is no file, or none that can be read: then drivers are asked again."""
    try:
        document = json.loads(path.read_text())
        found = {}
        for each in document["claims"]:
            drivers = {name: [PreparedDevice(**one) for one in devices] for name, devices in each["drivers"].items()}
            found[each["uid"]] = PreparedClaim(**{**each, "drivers": drivers})
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}


def save(path: Path, claims: dict[str, PreparedClaim]) -> None:
    """Write it, whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "w") as file:
        json.dump({"claims": [asdict(each) for each in claims.values()]}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
