"""`tiphys agent`: joins this machine to a cluster as a node, and keeps the node's components running.

The first time it needs a server and a token (`tiphys token create` prints the command); what it gets for them it
keeps, so that later starts need neither. It stays in the foreground, for systemd or whoever starts it to watch.
When it ends, its components end, and its containers go on; `--reset` ends those and takes away what it made.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pyroute2 import IPRoute

from tiphys.apiserver.pki import write_private
from tiphys.base.log import get_logger, setup_logging
from tiphys.base.nft import Nft
from tiphys.base.notify import notify_ready
from tiphys.cmd.cluster import hostnet, place, preflight
from tiphys.cmd.cluster.components import Component, node_components, process_flags
from tiphys.cmd.cluster.images import assemble_images
from tiphys.cmd.cluster.join import discover, join
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import AlreadyRunning, holder, send
from tiphys.cmd.cluster.progress import Progress
from tiphys.cmd.cluster.spec import NAME, ClusterSpec, NodeSpec
from tiphys.cmd.cluster.supervisor import Supervisor, set_title
from tiphys.cmd.down import unmount_below
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser
from tiphys.kubelet.server.tls import self_signed
from tiphys.network.agent import BACKENDS
from tiphys.network.cni.bridge import BRIDGE
from tiphys.network.cni.hostport import TABLE as HOSTPORT_TABLE
from tiphys.network.masquerade import TABLE as MASQUERADE_TABLE
from tiphys.network.policy.layout import TABLE as POLICY_TABLE
from tiphys.proxy.writers import remove_rules
from tiphys.runtime import linux

log = get_logger(__name__)

PRELOAD: Final = (
    "tiphys.cmd.runtime",
    "tiphys.cmd.kubelet",
    "tiphys.cmd.proxy",
    "tiphys.cmd.network",
    "tiphys.cmd.credentials",
)
# What the node's components keep in the machine's own network, beside what back ends and kube-proxy have.
TABLES: Final = (
    *((family, name) for name in (MASQUERADE_TABLE, HOSTPORT_TABLE) for family in ("ip", "ip6")),
    ("inet", POLICY_TABLE),
)
CREDENTIALS: Final = "credentials"  # the component that keeps them
END_WITHIN: Final = 20.0  # seconds for an agent to end when it is reset


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys agent` until it is ended."""
    flags = FlagParser("agent", "Join this machine to a cluster as a node; runs until it is ended.")
    flags.add_argument("--server", default="", help="URL of the API server, needed to join")
    flags.add_argument("--token", default="", help="bootstrap token, needed to join")
    flags.add_argument("--ca-cert-hash", action="append", default=[], help="sha256:… of the CA's public key")
    flags.boolean("insecure-skip-ca-verification", False, "trust whoever knows the token, without a hash")
    flags.add_argument("--node-name", default="", help="name of the node; without it the host's name")
    flags.add_argument(
        "--node-ip",
        default="",
        help="its address, or two as A,B, by which a node that has joined moves too; without it the one the server is "
        "reached from when joining",
    )
    flags.add_argument("--name", default="agent", help="name of this agent's state and processes on this machine")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    flags.add_argument("--reset", action="store_true", help="end it, and take away everything it made here")
    flags.add_argument("--renew", action="store_true", help="get it new certificates and tokens now")
    options = flags.parse(arguments)
    layout = Layout.of(options.name, options.state_dir)
    preflight.check_root("cluster")
    if layout.spec.exists():
        raise CommandError(f'"{options.name}" is a cluster of this machine: choose another --name')
    if options.reset:
        return reset(layout)
    if options.renew:
        renew(layout)
        return 0
    preflight.check_programs()
    preflight.check_directory(layout.state)
    setup_logging()
    supervisor = Supervisor(layout, [], PRELOAD, guarded=False)
    try:
        supervisor.prepare()
    except AlreadyRunning:
        raise CommandError(f'the agent "{options.name}" is running already') from None
    progress = Progress()
    _check_addresses(options.node_ip)
    known = _joined(layout)
    known = _join(options, layout, progress) if known is None else _moved(known, options.node_ip, layout)
    with progress.part("images"):
        assemble_images(layout.images)
    supervisor.add(components(known, layout))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    set_title(f"agent {known['node']}")
    supervisor.preload()
    waiting = set(supervisor.processes)

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "ready" and event["component"] in waiting:
            progress.done(event["component"], event["after"])
        elif event["event"] == "ended":
            progress.line(f"  {event['component']} {event['how']}; starting it again")
        if event["event"] in ("ready", "done") and event["component"] in waiting:
            waiting.remove(event["component"])
            if not waiting:
                notify_ready()
                progress.line(f"node {known['node']} is up; logs are in {layout.logs}")

    supervisor.subscribe(tell)
    supervisor.run()
    return 0


# -- joining -------------------------------------------------------------------------------------


def _joined(layout: Layout) -> dict[str, Any] | None:
    """What an earlier start has got; None when this machine has not joined."""
    try:
        found: dict[str, Any] = json.loads((layout.state / "agent.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CommandError(f"{layout.state / 'agent.json'} cannot be read; `tiphys agent --reset`, and join") from error
    return found


def _joined_or_broken(layout: Layout) -> dict[str, Any] | None:
    try:
        return _joined(layout)
    except CommandError:
        return None


def _join(options: Any, layout: Layout, progress: Progress) -> dict[str, Any]:
    if not options.server or not options.token:
        raise UsageError("this machine has not joined yet: --server and --token are needed (`tiphys token create`)")
    if not options.ca_cert_hash and not options.insecure_skip_ca_verification:
        raise UsageError("--ca-cert-hash is needed, or --insecure-skip-ca-verification to do without")
    node = options.node_name or socket.gethostname().lower()
    if not NAME.fullmatch(node):
        raise UsageError(f'"{node}" is not a node name: lower-case letters, digits and "-", at most 32 (--node-name)')
    address = options.node_ip or _own_address(options.server)

    async def work() -> Mapping[str, str]:
        trust = await discover(options.server.rstrip("/"), options.token, options.ca_cert_hash)
        return await join(trust, options.token, node, layout)

    with progress.part("join"):
        settings = asyncio.run(work())
    known = {"server": options.server, "node": node, "address": address, "settings": dict(settings)}
    _remember(known, layout)
    return known


def _remember(known: Mapping[str, Any], layout: Layout) -> None:
    write_private(layout.state / "agent.json", json.dumps(known, indent=2).encode(), 0o644)


def _check_addresses(text: str) -> None:
    """Raises UsageError unless it is empty, an address, or one of each family."""
    try:
        versions = [ipaddress.ip_address(each).version for each in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f'--node-ip: "{text}" is not an address, nor two as A,B') from None
    if len(versions) != len(set(versions)):
        raise UsageError(f'--node-ip: "{text}" has more than one address of a family')


def _moved(known: dict[str, Any], address: str, layout: Layout) -> dict[str, Any]:
    """What is known of the node with an address that was said now; its serving certificate follows by itself."""
    if address in ("", known["address"]):
        return known
    moved = {**known, "address": address}
    _remember(moved, layout)
    return moved


def _own_address(server: str) -> str:
    """The address of this machine from which the server is reached."""
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.hostname:
        raise UsageError(f'"{server}" is not the URL of an API server, as https://172.30.0.1:6443')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((parts.hostname, parts.port or 443))  # sends nothing
        except OSError as error:
            raise CommandError(f"cannot reach {server}: {error.strerror or error}") from error
        return str(probe.getsockname()[0])


# -- the node ------------------------------------------------------------------------------------


def components(known: Mapping[str, Any], layout: Layout) -> list[Component]:
    """The node's components, and the one that keeps its credentials."""
    node, address, settings = known["node"], known["address"], known["settings"]
    spec = ClusterSpec(
        name=layout.name,
        pod_cidr=settings["clusterCIDR"],
        cluster_domain=settings["clusterDomain"],
        network=settings["network"],
        proxy_mode=settings["proxyMode"],
    )
    found = node_components(
        spec,
        layout,
        NodeSpec(node, 0),
        address=address,
        dns_address=settings["clusterDNS"],
        joined=True,
        kubelet_directory=_kubelet_directory(layout.node_state(node) / "kubelet"),
    )
    base = layout.pki / f"kubelet-{node}-server"
    if not base.with_name(f"{base.name}.crt").exists():
        # The cluster gives a real one once the node exists; until then the kubelet vouches for itself.
        certificate, key = self_signed(layout.pki, node, tuple(address.split(",")))
        certificate.rename(base.with_name(f"{base.name}.crt"))
        key.rename(base.with_name(f"{base.name}.key"))
    credentials = Component(
        name=CREDENTIALS,
        command="credentials",
        arguments=process_flags(name=layout.name, state_dir=layout.state, node_name=node, names=f"{node},{address}"),
    )
    return [*found, credentials]


def _kubelet_directory(own: Path) -> Path:
    """Where the kubelet keeps volumes and sockets: `own`, under the name that CSI and device drivers look for.

    Where that name is taken (another kubelet's, or somebody's files), it is `own` by its own name.
    """
    usual = place.KUBELET_DIRECTORY
    for directory in (own, usual):
        directory.mkdir(parents=True, exist_ok=True)
    if _is_same(own, usual):
        return usual
    if any(usual.iterdir()):
        log.warning("%s is taken: drivers that look for the kubelet there have to be told of %s", usual, own)
        return own
    linux.bind(own, usual)
    linux.mount("none", usual, "none", linux.MS_SHARED)  # what drivers mount there has to be seen by containers
    return usual


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are there and the same directory, as one bound to the other is."""
    return one.exists() and other.exists() and one.samefile(other)


def renew(layout: Layout) -> None:
    """Tell the running agent to replace all its credentials."""
    pid = holder(layout.run / "pids" / f"{CREDENTIALS}.pid")
    if pid is None:
        raise CommandError(f'the agent "{layout.name}" is not running')
    send(pid, signal.SIGHUP)
    print(f"the agent renews its credentials; {layout.logs / CREDENTIALS}.log tells how it went")


# -- the end -------------------------------------------------------------------------------------


def reset(layout: Layout) -> int:
    """End the agent and its containers, and take away what they made: cgroups, mounts, links, rules, files.

    What cannot be taken away is told, and the result is 1.
    """
    progress = Progress()
    known = _joined_or_broken(layout)
    with progress.part("processes"):
        deadline = time.monotonic() + END_WITHIN
        pids = layout.run / "pids"
        supervisor = pids / "supervisor.pid"
        while (pid := holder(supervisor)) is not None and time.monotonic() < deadline:
            send(pid, signal.SIGTERM)
            time.sleep(0.05)
        for path in sorted(pids.glob("*.pid"), key=lambda path: path != supervisor):
            while (pid := holder(path)) is not None:
                send(pid, signal.SIGKILL)
                time.sleep(0.01)
        place.kill_cgroup(layout.cgroup)
    with progress.part("containers, links, rules"):
        if known and _is_same(layout.node_state(known["node"]) / "kubelet", place.KUBELET_DIRECTORY):
            unmount_below(place.KUBELET_DIRECTORY)
        for directory in (layout.run, layout.state):
            unmount_below(directory)
        place.remove_cgroup(layout.cgroup)
        failures = _remove_network()
    with progress.part("state"):
        shutil.rmtree(layout.run, ignore_errors=True)
        shutil.rmtree(layout.state, ignore_errors=True)
    if known:
        progress.line(f"The cluster still has its Node: kubectl delete node {known['node']}")
    for failure in failures:
        progress.line(f"could not be taken away: {failure}")
    return 1 if failures else 0


def _remove_network() -> list[str]:
    """The pod network's links, routes and tables, and the rules of kube-proxy; what could not be removed, in words."""
    failures: list[str] = []
    # Of every back end and mode: which ones were in use here is known to the cluster alone.
    for name, make in BACKENDS.items():
        for version in (4, 6):
            with closing(make(version, Path("/nowhere"))) as backend:
                try:
                    backend.clean_up()
                except OSError as error:
                    failures.append(f"back end {name} (IPv{version}): {error}")
    with IPRoute() as ip:
        index = hostnet.link_index(ip, BRIDGE)
        if index is not None:
            ip.link("del", index=index)
    with closing(Nft()) as nft:
        for family, name in TABLES:
            nft.run(f"table {family} {name}\ndelete table {family} {name}\n")
    return failures + asyncio.run(remove_rules())
