"""A node's own place on this machine: a network and a mount namespace, a hostname, and a cgroup.

The namespaces are pinned by bind mounts (the network's where `ip netns` looks for it), so they
live as long as the cluster and not as long as a process. A component is moved in right after it
has been forked, before it has threads. Cgroups are those of the containers: below
`/tiphys-CLUSTER/NODE` in every hierarchy, version 1 or 2.
https://man7.org/linux/man-pages/man7/namespaces.7.html
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute, NetlinkError

from tiphys.base.netns import call_in
from tiphys.cmd.cluster import hostnet
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.spec import ClusterSpec, NodeSpec
from tiphys.cmd.errors import CommandError
from tiphys.runtime import linux

NETNS_DIRECTORY: Final = Path("/run/netns")
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
# Where programs beside a kubelet (CSI drivers, device plugins) look for it: their manifests name this very path.
KUBELET_DIRECTORY: Final = Path("/var/lib/kubelet")
# Where device drivers tell the runtime what their devices need (CDI): a node's devices are no other node's.
CDI_DIRECTORY: Final = Path("/run/cdi")
KILL_FOR: Final = 5.0  # seconds to wait for the processes of a node to die


def network_namespace_path(layout: Layout, node: str) -> Path:
    """Where the node's network namespace is pinned."""
    return NETNS_DIRECTORY / layout.network_namespace(node)


def ensure(spec: ClusterSpec, layout: Layout, node: NodeSpec) -> None:
    """Make what is missing of a node's place. There the directories that everybody knows are the node's own."""
    own = {
        KUBELET_DIRECTORY: layout.node_state(node.name) / "kubelet",
        CDI_DIRECTORY: layout.node_run(node.name) / "cdi",
    }
    for directory in (layout.node_run(node.name), *own.values()):
        directory.mkdir(parents=True, exist_ok=True)
    (layout.run / "ns").mkdir(parents=True, exist_ok=True)
    _ensure_private_mount(layout.run / "ns")
    share_namespaces_directory()
    network = network_namespace_path(layout, node.name)
    mounts = layout.mount_namespace(node.name)
    if not _is_pinned(network) or not _is_pinned(mounts):
        _unpin(network)
        _unpin(mounts)
        _make_namespaces(network, mounts, own)
    _connect(spec, layout, node)


def pin_host_network(layout: Layout) -> None:
    """Pin the machine's own network namespace: image pulls of the nodes happen in it."""
    pin = layout.run / "ns" / "host.net"
    pin.parent.mkdir(parents=True, exist_ok=True)
    _ensure_private_mount(pin.parent)
    if not _is_pinned(pin):
        pin.touch()
        linux.mount("/proc/self/ns/net", pin, "none", linux.MS_BIND)


def enter(layout: Layout, node: str) -> None:
    """Move this (single-threaded) process into the node's namespaces, where the hostname is the node's name.

    Raises CommandError when the node has no place, as after a restart of the machine.
    """
    for path in (network_namespace_path(layout, node), layout.mount_namespace(node)):
        try:
            linux.setns(path)
        except OSError as error:
            raise CommandError(f"cannot enter {path} of node {node}: {error.strerror}") from error
    # Not pinned: a name is all there is in it, and every process of the node gives the same. Pods on the node's
    # network, which share it, see the node's name.
    linux.unshare(linux.CLONE_NEWUTS)
    linux.set_hostname(node)
    os.chdir("/")


def remove(layout: Layout, node: str) -> None:
    """Kill what still runs in a node's cgroup, and take its namespaces, links and cgroups away."""
    kill_cgroup(f"{layout.cgroup}/{node}")
    _unpin(layout.mount_namespace(node))
    network = network_namespace_path(layout, node)
    _unpin(network)
    with IPRoute() as ip:
        index = hostnet.link_index(ip, _veth(layout.name, node))
        if index is not None:
            with suppress(NetlinkError):
                ip.link("del", index=index)
    remove_cgroup(f"{layout.cgroup}/{node}")


def remove_pins(layout: Layout) -> None:
    """Unmount the directory of pins, at the very end of `down`."""
    directory = layout.run / "ns"
    if directory.is_dir():
        for pin in directory.iterdir():
            _unpin(pin)
        while linux.unmount(directory):
            continue


def share_namespaces_directory() -> None:
    """Make the directory of network namespaces a shared mount, as `ip netns add` does for the first it makes.

    Done by it later, with ours there already, its mount would cover them: what is covered cannot be unmounted.
    """
    with _namespaces_directory() as directory:
        try:
            linux.mount("none", directory, "none", linux.MS_REC | linux.MS_SHARED)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is no mount point
                raise
            linux.mount(directory, directory, "none", linux.MS_BIND | linux.MS_REC)
            linux.mount("none", directory, "none", linux.MS_REC | linux.MS_SHARED)


def leave_namespaces_directory() -> None:
    """Undo that, unless somebody has a namespace there."""
    if not NETNS_DIRECTORY.is_dir():
        return
    with _namespaces_directory() as directory:
        if not any(directory.iterdir()):
            linux.unmount(directory)


@contextmanager
def _namespaces_directory() -> Iterator[Path]:
    """The directory, locked as `ip netns` locks it."""
    NETNS_DIRECTORY.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(NETNS_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield NETNS_DIRECTORY
    finally:
        os.close(descriptor)


def remove_known_directories() -> None:
    """Remove what no node of this machine needs any more; one that is not empty is somebody else's."""
    for directory in (KUBELET_DIRECTORY, CDI_DIRECTORY):
        with suppress(OSError):
            directory.rmdir()


def freeze(layout: Layout, node: str, frozen: bool) -> None:
    """Stop or continue every process of a node's containers, as a machine that hangs and comes back."""
    name = f"{layout.cgroup}/{node}"
    legacy, unified = CGROUP_ROOT / "freezer" / name, _unified() / name
    with suppress(OSError):
        if legacy.is_dir():
            (legacy / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        elif unified.is_dir():
            (unified / "cgroup.freeze").write_text("1" if frozen else "0")


# -- namespaces --------------------------------------------------------------------------------


def _make_namespaces(network: Path, mounts: Path, own: Mapping[Path, Path]) -> None:
    """Fork a process into new namespaces, pin them from here, and let it end."""
    for known in own:
        known.mkdir(parents=True, exist_ok=True)
    for pin in (network, mounts):
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.touch()
    up_reader, up_writer = os.pipe()
    down_reader, down_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS)
            # What the machine mounts later still arrives here; what the node mounts stays here, and its pods
            # can share mounts with each other.
            linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SLAVE)
            linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SHARED)
            # A peer group of its own: what is mounted here does not appear below the state directory as well.
            for known, directory in own.items():
                linux.mount(directory, known, "none", linux.MS_BIND)
                linux.mount("none", known, "none", linux.MS_PRIVATE)
                linux.mount("none", known, "none", linux.MS_SHARED)
            os.write(up_writer, b"1")
            os.close(down_writer)
            os.read(down_reader, 1)
        finally:
            os._exit(0)
    os.close(up_writer)
    try:
        if not os.read(up_reader, 1):
            raise CommandError("cannot make network and mount namespaces: the kernel or a container forbids it")
        linux.mount(f"/proc/{pid}/ns/net", network, "none", linux.MS_BIND)
        linux.mount(f"/proc/{pid}/ns/mnt", mounts, "none", linux.MS_BIND)
    finally:
        for descriptor in (up_reader, down_reader, down_writer):
            os.close(descriptor)
        os.waitpid(pid, 0)


def _ensure_private_mount(directory: Path) -> None:
    # A mount namespace can be pinned only below a mount that is not shared with others.
    if not _is_mount_point(directory):
        linux.mount(directory, directory, "none", linux.MS_BIND)
        linux.mount("none", directory, "none", linux.MS_PRIVATE)


def _is_mount_point(directory: Path) -> bool:
    # A directory bound onto itself has the same device as its parent: only the table of mounts tells.
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return str(directory) in mounted


def _is_pinned(pin: Path) -> bool:
    try:
        return pin.stat().st_dev != pin.parent.stat().st_dev
    except OSError:
        return False


def _unpin(pin: Path) -> None:
    while pin.exists() and linux.unmount(pin):
        continue
    # Busy: covered by another mount of its directory, which `down` takes away as a whole.
    with suppress(OSError):
        pin.unlink(missing_ok=True)


# -- the wire to the bridge --------------------------------------------------------------------


def _veth(cluster: str, node: str) -> str:
    return hostnet.link_name("tphv", cluster, node)


def _connect(spec: ClusterSpec, layout: Layout, node: NodeSpec) -> None:
    """A veth pair from the bridge to the node's eth0, its address, and the way out."""
    network = network_namespace_path(layout, node.name)
    name = _veth(spec.name, node.name)
    with IPRoute() as ip:
        bridge = hostnet.link_index(ip, hostnet.bridge_name(spec.name))
        index = hostnet.link_index(ip, name)
        if index is None:
            namespace = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
            try:
                ip.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
            finally:
                os.close(namespace)
            index = hostnet.link_index(ip, name)
        ip.link("set", index=index, master=bridge, state="up")
    call_in(str(network), lambda: _configure(spec, node))


def _configure(spec: ClusterSpec, node: NodeSpec) -> None:
    """Inside the node's network namespace."""
    versions = {4, *spec.families}
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        index = hostnet.link_index(ip, "eth0")
        for version in versions:
            hostnet.add_address(ip, index, spec.node_address(node, version), spec.subnet_of(version))
        ip.link("set", index=index, state="up")
        for version in versions:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            ip.route("replace", family=family, dst="default", gateway=spec.bridge_address(version), oif=index)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if 6 in versions:
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    for name, value in (("bridge/bridge-nf-call-iptables", "0"),):
        with suppress(OSError):
            Path("/proc/sys/net", name).write_text(value)


# -- cgroups -----------------------------------------------------------------------------------


def _unified() -> Path:
    return CGROUP_ROOT if (CGROUP_ROOT / "cgroup.controllers").exists() else CGROUP_ROOT / "unified"


def _hierarchies() -> Iterator[Path]:
    """The root of every cgroup hierarchy of this machine."""
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        yield CGROUP_ROOT
    elif CGROUP_ROOT.is_dir():
        yield from (path for path in CGROUP_ROOT.iterdir() if path.is_dir() and not path.is_symlink())


def cgroups_of(name: str) -> Iterator[Path]:
    """The directories of one cgroup, one a hierarchy it exists in."""
    for root in _hierarchies():
        path = root / name
        if path.is_dir():
            yield path


def pids_below(name: str) -> set[int]:
    """Every process in a cgroup and those below it."""
    found: set[int] = set()
    for top in cgroups_of(name):
        for directory, _, files in os.walk(top):
            if "cgroup.procs" in files:
                with suppress(OSError):
                    found.update(int(line) for line in Path(directory, "cgroup.procs").read_text().split())
    return found


def join_cgroup(name: str) -> None:
    """Move this process and all it will start into a cgroup, so that it is found, frozen and ended with its node."""
    legacy = CGROUP_ROOT / "freezer"
    directory = (legacy if legacy.is_dir() else _unified()) / name.lstrip("/")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise CommandError(f"cannot enter the cgroup {directory}: {error.strerror}") from error


def kill_cgroup(name: str) -> None:
    """SIGKILL everything in a cgroup and below, until nothing is left (at most five seconds)."""
    deadline = time.monotonic() + KILL_FOR
    while (pids := pids_below(name)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove_cgroup(name: str) -> None:
    """Remove an empty cgroup and those below it, in every hierarchy."""
    for top in list(cgroups_of(name)):
        for directory, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
