"""What must be true before a cluster can start, each with a message that says what is wrong and what helps."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tiphys.apiserver.configfile import ConfigError
from tiphys.base.nft import Nft, NftError
from tiphys.cmd.cluster.layout import Layout, known_clusters
from tiphys.cmd.cluster.spec import ClusterSpec, load
from tiphys.cmd.errors import CommandError
from tiphys.ingress.haproxy.process import HaproxyError, find_program
from tiphys.proxy.ipvs import kernel as ipvs

# Program → Debian package. scripts/system-packages installs the same list.
PROGRAMS: Final = {"runc": "runc", "conmon": "conmon"}
LIBRARIES: Final = {"libnftables": "nftables"}
NEEDED_SPACE: Final = 256 << 20  # bytes; images and the first pods
PORTS: Final = range(6443, 6543)
REACHED_WITHIN: Final = 2.0  # seconds, for a member of etcd


def check_root(mode: str) -> None:
    """Nodes need root: they are made of namespaces, mounts and nftables rules."""
    if mode == "cluster" and os.geteuid() != 0:
        raise CommandError(
            "nodes run real containers, and that needs root: run it with sudo, or without nodes: "
            "`tiphys up --control-plane-only` (or --api-only)"
        )


def check_programs() -> None:
    """The programs and libraries nodes are made with."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    try:
        Nft().close()
    except (NftError, OSError) as error:
        if shutil.which("nft") is None:
            missing.append("nftables")
        else:
            raise CommandError(f"nftables cannot be used here: {error}") from error
    if missing:
        raise CommandError(
            f"missing: {', '.join(sorted(set(missing)))}. On Debian or Ubuntu: "
            f"apt-get install -y {' '.join(sorted(set(missing)))}"
        )


def check_ingress(spec: ClusterSpec) -> None:
    """The ingress controller's proxy is there, where one is wanted."""
    if not spec.ingress:
        return
    if spec.mode != "cluster":
        raise CommandError("--ingress needs nodes")
    try:
        find_program()
    except HaproxyError as error:
        raise CommandError(f"--ingress: {error}") from error


def check_families(spec: ClusterSpec) -> None:
    """That the kernel has IPv6, where it is asked for."""
    if 6 in spec.families and not Path("/proc/sys/net/ipv6").is_dir():
        raise CommandError("this kernel has no IPv6; choose --pod-cidr and --service-cidr of IPv4 only")


def check_directory(path: Path) -> None:
    """The state directory can be written and has room."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        reason = "there is no space left on its disk" if error.errno == errno.ENOSPC else error.strerror
        raise CommandError(f"cannot write to {path}: {reason}") from error
    free = shutil.disk_usage(path).free
    if free < NEEDED_SPACE:
        raise CommandError(
            f"only {free >> 20} MiB are free for {path}; a cluster needs {NEEDED_SPACE >> 20} MiB. "
            "Free some, or choose another place with --state-dir"
        )


def port_is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def choose_port(wanted: int | None) -> int:
    """The API server's port: the one asked for, else the first that no other cluster of ours has.

    Raises CommandError when it is taken by somebody else.
    """
    ours = _ports_of_other_clusters()
    if wanted is not None:
        check_port(wanted)
        return wanted
    port = next(candidate for candidate in PORTS if candidate not in ours)
    check_port(port)
    return port


def check_port(port: int) -> None:
    """Raises CommandError, naming the process, when the port is taken."""
    if not port_is_free(port):
        who = _listener(port)
        raise CommandError(f"port {port} on 127.0.0.1 is in use{who}; choose another with --api-port")


def _ports_of_other_clusters() -> set[int]:
    ports = set()
    for name in known_clusters():
        try:
            found = load(Layout.of(name).spec)
        except CommandError:
            continue
        if found is not None:
            ports.add(found.api_port)
    return ports


def _listener(port: int) -> str:
    """` by process 4711 (name)`, as far as /proc tells."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f" by process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return ""


def check_datastore(spec: ClusterSpec) -> None:
    """That a member of the etcd cluster can be reached; of the embedded store nothing is asked."""
    if spec.datastore == "sqlite":
        return
    reasons = []
    for url in spec.datastore.split(","):
        place = urlsplit(url.strip())
        try:
            with socket.create_connection((place.hostname or "", place.port or 2379), timeout=REACHED_WITHIN):
                return
        except (OSError, ValueError) as error:
            reasons.append(f"{url.strip()} ({getattr(error, 'strerror', None) or error})")
    raise CommandError(f"no etcd answers at {', '.join(reasons)}; start it first, or use --datastore sqlite")


def check_encryption(spec: ClusterSpec) -> None:
    """That the API server will take the EncryptionConfiguration, if there is one."""
    if not spec.encryption_provider_config:
        return
    from tiphys.apiserver.encryption.configuration import load, parse
    from tiphys.apiserver.encryption.providers import Encryption  # ciphers and gRPC take a while to load

    path = Path(spec.encryption_provider_config)
    try:
        Encryption(parse(load(path), path))
    except ConfigError as error:
        raise CommandError(str(error)) from error


def check_limits(spec: ClusterSpec) -> None:
    """What this version cannot do yet is said, not ignored."""
    if spec.datastore != "sqlite" and not spec.datastore.startswith(("http://", "https://")):
        raise CommandError(f'the datastore "{spec.datastore}" is not known; use sqlite, etcd or URLs of etcd members')
    if spec.network == "bgp" and not shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        raise CommandError('the network bgp needs the program "bird"; install the package bird2')
    if spec.network == "ipip" and 6 in spec.families:
        raise CommandError("the network ipip is for IPv4 only; use vxlan, host-gw or bgp")
    if spec.proxy_mode == "ipvs" and spec.mode == "cluster" and not ipvs.is_available():
        raise CommandError(ipvs.MISSING)
    if spec.proxy_mode == "iptables" and not shutil.which("iptables-restore"):
        raise CommandError("the proxy mode iptables needs the command iptables-restore; install the package iptables")
