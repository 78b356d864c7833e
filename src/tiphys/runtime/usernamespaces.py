"""User namespaces of pods (KEP-127): users of a pod are others on the node, its root is nobody there.

    in the pod      0 ………… 65535                     the pod's network, IPC and UTS namespaces belong to its user
                    │          │                     namespace, so that its root may configure them, and nothing else
    on the node     131072 … 196607

A process of many threads can enter no user namespace, so two small programs make them: one of which the user
namespace is, and one that enters it as root and unshares the others. Both end as soon as the namespaces are pinned.
https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/, user_namespaces(7)
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tiphys.api.cri import api_pb2
from tiphys.runtime import linux

FLAGS: Final = {"net": "--net", "ipc": "--ipc", "uts": "--uts"}
# The first Linux with such mounts of tmpfs, which the kubelet keeps secrets in.
LEAST_KERNEL: Final = (6, 3)

# Each says a line when it is where it is to be, and stays until it can read one.
_WAIT: Final = "echo; read -r _"
_SET_SYSCTLS_AND_WAIT: Final = (
    'while read -r path value && [ "$path" != . ]; do printf %s "$value" >"/proc/sys/$path" || exit 1; done; ' + _WAIT
)


class UserNamespaceError(Exception):
    """The mapping cannot be used, or the kernel refused."""


@dataclass(frozen=True, slots=True)
class IDRange:
    """`length` ids from `inside` on in the namespace are those from `outside` on of the node."""

    inside: int
    outside: int
    length: int


@dataclass(frozen=True, slots=True)
class UserMapping:
    """Users and groups of a pod, and who they are on the node."""

    uids: tuple[IDRange, ...]
    gids: tuple[IDRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the node that root of the pod is."""
        return outside(self.uids, 0), outside(self.gids, 0)

    @property
    def last_gid(self) -> int:
        """The highest group the pod has."""
        return max(ids.inside + ids.length for ids in self.gids) - 1

    def oci(self) -> dict[str, list[dict[str, int]]]:
        """As the OCI specification's `linux` object has it."""
        return {"uidMappings": _oci(self.uids), "gidMappings": _oci(self.gids)}


def mapping_of(options: api_pb2.NamespaceOption) -> UserMapping | None:
    """The mapping CRI asks for; None where the pod has the node's users. Raises UserNamespaceError."""
    if not options.HasField("userns_options") or options.userns_options.mode == api_pb2.NODE:
        return None
    if options.userns_options.mode != api_pb2.POD:
        raise UserNamespaceError("unsupported user namespace mode")
    mapping = UserMapping(_ranges(options.userns_options.uids), _ranges(options.userns_options.gids))
    for kind, ranges in (("uid", mapping.uids), ("gid", mapping.gids)):
        if not any(ids.inside <= 0 < ids.inside + ids.length for ids in ranges):
            raise UserNamespaceError(f"{kind} mappings of a user namespace have to map 0")
    return mapping


def _ranges(mappings: Sequence[api_pb2.IDMapping]) -> tuple[IDRange, ...]:
    return tuple(IDRange(item.container_id, item.host_id, item.length) for item in mappings)


def outside(ranges: Sequence[IDRange], number: int) -> int:
    """Who `number` of the pod is on the node. Raises UserNamespaceError where it is nobody."""
    for ids in ranges:
        if ids.inside <= number < ids.inside + ids.length:
            return ids.outside + number - ids.inside
    raise UserNamespaceError(f"id {number} is not mapped")


def _oci(ranges: Sequence[IDRange]) -> list[dict[str, int]]:
    return [{"containerID": ids.inside, "hostID": ids.outside, "size": ids.length} for ids in ranges]


def create_owned(directory: Path, kinds: Sequence[str], *, users: UserMapping, sysctls: Mapping[str, str]) -> None:
    """Pin a new user namespace as `directory`/user, and namespaces of `kinds` that belong to it beside.

    `sysctls` are set by the pod's root: those of IPC are not even the node's root's to set. The caller removes the
    pins on failure. Raises UserNamespaceError, OSError.
    """
    pin = directory / "user"
    for name in ("user", *kinds):
        (directory / name).touch()
    with _helper(["unshare", "--user", "--", "sh", "-c", _WAIT], "") as pid:
        Path(f"/proc/{pid}/uid_map").write_text(_lines(users.uids))
        Path(f"/proc/{pid}/gid_map").write_text(_lines(users.gids))
        linux.mount(f"/proc/{pid}/ns/user", pin, "none", linux.MS_BIND)
    enter = ["nsenter", f"--user={pin}", "--setuid", "0", "--setgid", "0", "--"]
    unshare = ["unshare", *(FLAGS[kind] for kind in kinds), "--", "sh", "-c", _SET_SYSCTLS_AND_WAIT]
    said = "".join(f"{name.replace('.', '/')} {value}\n" for name, value in sysctls.items())
    with _helper([*enter, *unshare], said + ".\n") as pid:
        for kind in kinds:
            linux.mount(f"/proc/{pid}/ns/{kind}", directory / kind, "none", linux.MS_BIND)


def supported(place: Path) -> str:
    """Why pods cannot have users of their own whose files lie at `place`; "" when they can. Tries it."""
    missing = [program for program in ("unshare", "nsenter", "sh") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    if tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) < LEAST_KERNEL:
        return f"Linux {platform.release()} is older than {'.'.join(map(str, LEAST_KERNEL))}"
    ids = (IDRange(0, 65536, 65536),)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=".users-") as directory:
        target, pin = Path(directory, "target"), Path(directory, "user")
        target.mkdir()
        try:
            create_owned(Path(directory), (), users=UserMapping(ids, ids), sysctls={})
            linux.bind_mapped(place, target, pin)
        except (UserNamespaceError, OSError) as error:
            return str(error)
        finally:
            linux.unmount(target)
            linux.unmount(pin)
    return ""


def _lines(ranges: Sequence[IDRange]) -> str:
    return "".join(f"{ids.inside} {ids.outside} {ids.length}\n" for ids in ranges)


@contextmanager
def _helper(argv: Sequence[str], said: str) -> Iterator[int]:
    """A program that is told `said` and answers a line once it is ready; its pid meanwhile."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/", env=dict(os.environ)) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            try:
                child.stdin.write(said.encode())
                child.stdin.flush()
            except BrokenPipeError:
                pass  # it has said why
            if not child.stdout.readline():
                raise UserNamespaceError(child.stderr.read().decode(errors="replace").strip() or f"{argv[0]} failed")
            yield child.pid
        finally:
            child.kill()
