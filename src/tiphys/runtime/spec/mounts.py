"""Mounts of a container: the file systems every container has, files of its sandbox, and what CRI asks for.

A mount that CRI asks for replaces a default one at the same place; all are ordered by depth, so that a mount
below another one is made after it. https://kubernetes.io/docs/concepts/storage/volumes/#mount-propagation
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiphys.api.cri import api_pb2

_PROPAGATION = {
    api_pb2.PROPAGATION_PRIVATE: "rprivate",
    api_pb2.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api_pb2.PROPAGATION_BIDIRECTIONAL: "rshared",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFiles:
    """Files and directories of the sandbox that its containers share."""

    hostname: Path
    hosts: Path
    resolv_conf: Path
    shm: Path


def default_mounts(*, privileged: bool) -> list[dict[str, Any]]:
    """/proc, /dev, /sys and what is mounted in them. Only privileged containers may write to /sys.

    /dev/mqueue shows the queues of whatever IPC namespace the container is in, also the node's.
    """
    kernel = ["nosuid", "noexec", "nodev"]
    read = [] if privileged else ["ro"]
    return [
        _mount("/proc", "proc", "proc", kernel),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        _mount("/dev/mqueue", "mqueue", "mqueue", kernel),
        _mount("/sys", "sysfs", "sysfs", [*kernel, *(read or ["rw"])]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*kernel, "relatime", *(read or ["rw"])]),
    ]


def sandbox_mounts(files: SandboxFiles, *, read_only: bool, taken: Iterable[str]) -> list[dict[str, Any]]:
    """/etc/hostname, /etc/hosts, /etc/resolv.conf and /dev/shm, unless the request mounts something there."""
    access = "ro" if read_only else "rw"
    skip = {posixpath.normpath(path) for path in taken}
    candidates = [
        ("/etc/hostname", files.hostname, ["rbind", "rprivate", access]),
        ("/etc/hosts", files.hosts, ["rbind", "rprivate", access]),
        ("/etc/resolv.conf", files.resolv_conf, ["rbind", "rprivate", access]),
        ("/dev/shm", files.shm, ["rbind", "rprivate", "rw"]),
    ]
    return [
        _mount(path, "bind", str(source), options)
        for path, source, options in candidates
        if path not in skip and source.exists()
    ]


def requested_mount(mount: api_pb2.Mount, source: str, *, read_only: bool) -> dict[str, Any]:
    """One mount of the request; `source` is its host path with symbolic links resolved.

    `read_only`: whether it is to be made so; not where `source` is that already.
    """
    options = ["rbind", _PROPAGATION[mount.propagation]]
    if read_only:
        # "rro" makes mounts below it read-only too (mount_setattr, Linux 5.12).
        options.append("rro" if mount.recursive_read_only else "ro")
    else:
        options.append("rw")
    return _mount(posixpath.normpath(mount.container_path), "bind", source, options)


def combine(defaults: Sequence[dict[str, Any]], requested: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both lists by depth; a default gives way to a requested mount at the same place."""
    places = {mount["destination"] for mount in requested}
    # A tmpfs over /dev or a mount over /sys/fs/cgroup replaces what is below it as well.
    kept = [mount for mount in defaults if mount["destination"] not in places]
    return sorted([*kept, *requested], key=lambda mount: mount["destination"].rstrip("/").count("/"))


def rootfs_propagation(mounts: Iterable[api_pb2.Mount]) -> str:
    """`linux.rootfsPropagation` such that the requested propagations can work; "" leaves the default."""
    asked = {mount.propagation for mount in mounts}
    if api_pb2.PROPAGATION_BIDIRECTIONAL in asked:
        return "rshared"
    if api_pb2.PROPAGATION_HOST_TO_CONTAINER in asked:
        return "rslave"
    return ""


def prepare_source(host_path: str) -> str:
    """The real path of a mount's source; a missing one is made as a directory, as other runtimes do."""
    if not host_path:
        raise ValueError("mount has no host path")
    real = os.path.realpath(host_path)
    if not os.path.lexists(real):
        os.makedirs(real, mode=0o755, exist_ok=True)
    return real


def propagation_error(mount: api_pb2.Mount, source: str, mountinfo: str) -> str:
    """Why the propagation of `mount` cannot work, "" when it can. `mountinfo` is /proc/self/mountinfo."""
    if mount.propagation == api_pb2.PROPAGATION_PRIVATE:
        return ""
    point, optional = mount_of(source, mountinfo)
    if any(field.startswith("shared:") for field in optional):
        return ""
    if mount.propagation == api_pb2.PROPAGATION_HOST_TO_CONTAINER:
        if any(field.startswith("master:") for field in optional):
            return ""
        return f'path "{source}" is mounted on "{point}" but it is not a shared or slave mount'
    return f'path "{source}" is mounted on "{point}" but it is not a shared mount'


def mount_of(path: str, mountinfo: str) -> tuple[str, list[str]]:
    """Mount point that holds `path` and its optional fields (`shared:1`, `master:2`); proc_pid_mountinfo(5)."""
    best, fields = "", list[str]()
    for line in mountinfo.splitlines():
        parts = line.split(" ")
        point = parts[4].encode().decode("unicode_escape")
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, fields = point, parts[6 : parts.index("-")]
    return best, fields


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}
