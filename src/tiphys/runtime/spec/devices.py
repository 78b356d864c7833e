"""Devices of a container: nodes to make in its /dev and what its device control group allows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tiphys.api.cri import api_pb2


def requested(devices: Iterable[api_pb2.Device]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """`linux.devices` and `linux.resources.devices` for CRI's devices; a directory means all devices in it.

    Raises OSError where a path does not exist, ValueError where it is no device.
    """
    nodes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    for device in devices:
        source = Path(os.path.realpath(device.host_path))
        if source.is_dir():
            paths = [(path, f"{device.container_path.rstrip('/')}/{path.name}") for path in sorted(source.iterdir())]
            found = [node for path, target in paths if (node := _node(path, target))]
        else:
            one = _node(source, device.container_path)
            if one is None:
                raise ValueError(f"{device.host_path} is not a device node")
            found = [one]
        nodes += found
        rules += [_rule(node, device.permissions or "rwm") for node in found]
    return nodes, rules


def of_machine(directory: Path = Path("/dev")) -> list[dict[str, Any]]:
    """Every device of the machine, for privileged containers. Consoles and what the runtime makes are left out."""
    nodes = []
    for path in sorted(directory.iterdir()):
        if path.name in ("pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"):
            continue
        if path.is_symlink():
            continue
        if path.is_dir():
            nodes += of_machine(path)
        elif node := _node(path, str(path)):
            nodes.append(node)
    return nodes


def _node(path: Path, target: str) -> dict[str, Any] | None:
    found = path.stat()
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        return None
    return {
        "path": target,
        "type": kind,
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def _rule(node: dict[str, Any], access: str) -> dict[str, Any]:
    return {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}
