"""The device manager's memory over restarts: `device-plugins/kubelet_internal_checkpoint`.

```
 {"Data": {"PodDeviceEntries": [{"PodUID", "ContainerName", "ResourceName", "DeviceIDs": {"<NUMA node>": [id…]},
                                 "AllocResp": base64 of the plugin's answer}],
           "RegisteredDevices": {"<resource>": [id…]}},
  "Checksum": number}
```
Field names are upstream's; the checksum is ours (a CRC of the data), so that a torn or edited file is noticed.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from tiphys.api.deviceplugin import api_pb2 as plugin
from tiphys.base.log import get_logger
from tiphys.kubelet.devices.ledger import Device, Holding, Ledger
from tiphys.kubelet.pod import PodUID

log = get_logger(__name__)

NAME: Final = "kubelet_internal_checkpoint"
NO_NODE: Final = -1


def save(path: Path, ledger: Ledger) -> None:
    """Write the books, whole or not at all. Raises OSError."""
    data = {
        "PodDeviceEntries": [
            _entry(uid, container, resource, holding)
            for uid, containers in ledger.holdings.items()
            for container, resources in containers.items()
            for resource, holding in resources.items()
        ],
        "RegisteredDevices": {resource: sorted(devices) for resource, devices in ledger.devices.items()},
    }
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(json.dumps({"Data": data, "Checksum": _checksum(data)}))
    os.replace(fresh, path)


def load(path: Path) -> Ledger:
    """The books as they were. Devices are ill until their plugin is back; an unreadable file is an empty one."""
    ledger = Ledger()
    try:
        document = json.loads(path.read_text())
        data = document["Data"]
        if document["Checksum"] != _checksum(data):
            raise ValueError("checkpoint is corrupted")
        for resource, ids in data["RegisteredDevices"].items():
            ledger.devices[resource] = {device: Device(device, healthy=False) for device in ids}
        for entry in data["PodDeviceEntries"]:
            _read_entry(ledger, entry)
    except FileNotFoundError:
        return Ledger()
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as error:
        log.warning("the device manager's checkpoint %s cannot be used: %s", path, error)
        return Ledger()
    return ledger


def _entry(uid: PodUID, container: str, resource: str, holding: Holding) -> dict[str, Any]:
    nodes: dict[str, list[str]] = {}
    for device in sorted(holding.devices):
        for node in sorted(holding.numa_nodes.get(device, ())) or [NO_NODE]:
            nodes.setdefault(str(node), []).append(device)
    return {
        "PodUID": uid,
        "ContainerName": container,
        "ResourceName": resource,
        "DeviceIDs": nodes,
        "AllocResp": base64.b64encode(holding.response.SerializeToString()).decode(),
    }


def _read_entry(ledger: Ledger, entry: dict[str, Any]) -> None:
    nodes: dict[str, set[int]] = {}
    for node, ids in entry["DeviceIDs"].items():
        for device in ids:
            nodes.setdefault(device, set()).update({int(node)} - {NO_NODE})
    response = plugin.ContainerAllocateResponse.FromString(base64.b64decode(entry["AllocResp"]))
    holding = Holding(frozenset(nodes), response, {device: frozenset(found) for device, found in nodes.items()})
    ledger.hold(PodUID(entry["PodUID"]), entry["ContainerName"], entry["ResourceName"], holding)


def _checksum(data: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())
