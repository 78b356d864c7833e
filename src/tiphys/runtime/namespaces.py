"""Namespaces of a pod, held without a process: bind mounts of `/proc/thread-self/ns/*` in the sandbox's run directory.

    <run>/sandboxes/<id>/ns/net   ─┐
    <run>/sandboxes/<id>/ns/ipc    ├─ each a mount of nsfs: lives until it is unmounted and no process is inside
    <run>/sandboxes/<id>/ns/uts   ─┘
    <run>/sandboxes/<id>/ns/user     of a pod with users of its own, to which the others then belong

They are made by a thread that unshares and ends: network, IPC and UTS namespaces belong to a thread, so nothing
is forked. It takes a millisecond, and the pins outlive this runtime.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from tiphys.runtime import linux
from tiphys.runtime.usernamespaces import UserMapping, create_owned

T = TypeVar("T")

FLAGS: Final = {"net": linux.CLONE_NEWNET, "ipc": linux.CLONE_NEWIPC, "uts": linux.CLONE_NEWUTS}

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1


def in_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own that ends with it, so that namespaces it entered are left behind."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def create(
    directory: Path, kinds: list[str], *, hostname: str, sysctls: Mapping[str, str], users: UserMapping | None = None
) -> None:
    """Make new namespaces of `kinds` ("net", "ipc", "uts") and pin them in `directory`.

    The loopback interface is brought up, the hostname and the sysctls (dotted names) are set. With `users` they
    belong to a new user namespace, pinned as "user". On failure nothing stays pinned. Raises OSError,
    UserNamespaceError.
    """
    directory.mkdir(parents=True, exist_ok=True)

    def work() -> None:
        if users is None:
            _unshare(kinds)
        else:
            for kind in kinds:
                linux.setns(directory / kind)
        if "net" in kinds:
            _loopback_up()
        if "uts" in kinds:
            linux.set_hostname(hostname)
        if users is None:
            for name, value in sysctls.items():
                write_sysctl(name, value)
            for kind in kinds:
                (directory / kind).touch()
                linux.mount(f"/proc/thread-self/ns/{kind}", directory / kind, "none", linux.MS_BIND)

    try:
        if users is not None:
            create_owned(directory, kinds, users=users, sysctls=sysctls)
        in_own_thread(work)
    except BaseException:
        remove(directory)
        raise


def _unshare(kinds: list[str]) -> None:
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    linux.unshare(flags)


def write_sysctl(name: str, value: str) -> None:
    """Set one sysctl in the namespaces of the calling thread. Both `a.b.c` and `a/b/c` forms are taken."""
    path = name if "/" in name else name.replace(".", "/")
    if ".." in path.split("/"):
        raise ValueError(f"invalid sysctl name {name!r}")
    try:
        Path("/proc/sys", path).write_text(value)
    except OSError as error:
        raise OSError(error.errno, f"write sysctl {name}: {error.strerror}") from error


def remove(directory: Path) -> None:
    """Unpin every namespace in `directory`; harmless when there is none."""
    if directory.is_dir():
        for pin in directory.iterdir():
            while linux.unmount(pin):
                pass
            pin.unlink(missing_ok=True)
        directory.rmdir()


def is_pinned(pin: Path) -> bool:
    """Whether a namespace is mounted at `pin` (a machine that was started again has only the empty file)."""
    try:
        return pin.stat().st_dev != pin.parent.stat().st_dev
    except OSError:
        return False


def inside(netns: str, work: Callable[[], T]) -> T:
    """Run `work` inside the network namespace at the path `netns`; "" is the runtime's own."""
    if not netns:
        return work()

    def enter() -> T:
        linux.setns(netns)
        return work()

    return in_own_thread(enter)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
