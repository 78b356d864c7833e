"""`tiphys up`: a cluster on this machine, ready when the command returns."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from tiphys.apiserver.pki import PkiError, write_private
from tiphys.cmd.cluster import daemon, hostnet, identities, place, preflight
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.components import SIMULATOR
from tiphys.cmd.cluster.control import ControlClient
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.progress import Progress
from tiphys.cmd.cluster.spec import MAX_NODES, NAME, NETWORKS, PROXY_MODES, ClusterSpec
from tiphys.cmd.down import stop_cluster
from tiphys.cmd.errors import CommandError, UsageError
from tiphys.cmd.flags import FlagParser, duration
from tiphys.simulation.nodes import MAX_NODES as MAX_SIMULATED_NODES

READY_WITHIN: Final = 180.0  # seconds without any progress before `up` gives up waiting
# The cluster is ready when these are: jobs when they are done.
AWAITED: Final = {
    "api-only": ("apiserver",),
    "control-plane-only": ("apiserver", "controller-manager", "scheduler"),
    "cluster": ("setup", "dns"),
}
LOCAL_ETCD: Final = "http://127.0.0.1:2379"
LABELS: Final = {
    "apiserver": "API server",
    "controller-manager": "controller manager",
    "scheduler": "scheduler",
    SIMULATOR: "simulated nodes",
}


def parser() -> FlagParser:
    """The flags of `up`."""
    flags = FlagParser("up", "Start a cluster on this machine; running it again is harmless.")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--nodes", type=int, help="number of nodes (2)")
    flags.add_argument(
        "--simulated-nodes", type=int, help="further nodes that live in the API alone, up to 16384 (none)"
    )
    only = flags.add_mutually_exclusive_group()
    only.add_argument("--control-plane-only", action="store_true", help="no nodes; needs no root")
    only.add_argument("--api-only", action="store_true", help="the API server and its store alone; needs no root")
    flags.add_argument("--state-dir", type=Path, help="where the cluster's state is kept")
    flags.add_argument("--kubeconfig", type=Path, help="kubeconfig to write (~/.kube/tiphys.yaml)")
    flags.add_argument("--api-port", type=int, help="port of the API server on 127.0.0.1 (6443)")
    flags.add_argument("--datastore", help="sqlite, etcd (at http://127.0.0.1:2379) or the URLs of etcd's members")
    for name, help_text in (
        ("cafile", "authority of etcd's certificates"),
        ("certfile", "ours"),
        ("keyfile", "its key"),
    ):
        flags.add_argument(f"--etcd-{name}", type=Path, help=help_text)
    flags.add_argument("--etcd-prefix", help="what every key in etcd begins with (/registry)")
    help_text = "EncryptionConfiguration: what is sealed in the datastore, and how; read again when it changes"
    flags.add_argument("--encryption-provider-config", type=Path, help=help_text)
    help_text = "bytes the embedded datastore may take before it refuses writes (2 GiB)"
    flags.add_argument("--quota-backend-bytes", type=int, help=help_text)
    flags.add_argument(
        "--pod-cidr", help="range of pods' addresses; one of IPv4 and one of IPv6 for both (10.244.0.0/16)"
    )
    flags.add_argument("--service-cidr", help="range of Services' addresses, in the same families (10.96.0.0/16)")
    flags.add_argument("--network", choices=NETWORKS, help="how pods reach each other across nodes (vxlan)")
    flags.add_argument("--proxy-mode", choices=PROXY_MODES, help="how services are made (nftables)")
    flags.boolean("ingress", None, "serve Ingress and Gateway objects on ports 80 and 443 of every node (no)")
    flags.add_argument("--container-runtime-endpoint", help="use this CRI runtime instead of our own")
    flags.add_argument(
        "--node-monitor-grace-period", type=duration, help="silence after which a node is not ready (40s)"
    )
    flags.add_argument(
        "--component-ports",
        type=int,
        help="metrics of controller manager, scheduler and simulated nodes on 127.0.0.1, from this port on (none)",
    )
    flags.add_argument("--config", type=Path, help="a YAML file with any of these settings, as `nodes: 3`")
    flags.add_argument("--foreground", action="store_true", help="stay, and stop the cluster when interrupted")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys up`."""
    options = _with_config(parser(), arguments)
    if not NAME.fullmatch(options.name):
        raise UsageError(f'"{options.name}" is not a cluster name: lower-case letters, digits and "-", at most 32')
    layout = Layout.of(options.name, options.state_dir)
    progress = Progress()
    running = ControlClient.connect(layout)
    if running is not None:
        return _already_running(running, layout, options, progress)
    spec = _spec(options, layout)
    preflight.check_root(spec.mode)
    preflight.check_limits(spec)
    preflight.check_datastore(spec)
    preflight.check_encryption(spec)
    preflight.check_ingress(spec)
    if spec.mode == "cluster":
        preflight.check_programs()
        preflight.check_families(spec)
    preflight.check_directory(layout.state)
    words = {"cluster": f"{len(spec.nodes)} nodes", "control-plane-only": "no nodes", "api-only": "API server only"}
    simulated = f", {spec.simulated_nodes} simulated nodes" if spec.simulated_nodes else ""
    progress.line(f'Cluster "{spec.name}", {words[spec.mode]}{simulated}')
    spec = _prepare(spec, layout, progress)
    if options.foreground:
        progress.line("  running in the foreground; interrupt to stop it")
        daemon.ClusterDaemon(spec, layout).serve()
        return 0
    _start_daemon(spec, layout)
    control = ControlClient.connect(layout, wait=30)
    if control is None:
        raise CommandError(f"the supervisor did not start; see {layout.log('supervisor')}")
    try:
        _follow(control, spec, layout, progress)
    except CommandError:
        # What does not come up is not left half there; its logs and its state are.
        stop_cluster(layout)
        raise
    _farewell(spec, progress)
    return 0


def _with_config(flags: FlagParser, arguments: Sequence[str]) -> Any:
    """The flags, with those the configuration file gives as defaults."""
    options = flags.parse(arguments)
    if options.config is None:
        return options
    try:
        found = yaml.safe_load(options.config.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {options.config}: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{options.config}: expected settings as `name: value`")
    extra = []
    for key, value in found.items():
        name = f"--{str(key).replace('_', '-')}"
        extra += [name] if value is True else [] if value is False else [f"{name}={value}"]
    # What is on the command line comes last and wins.
    return flags.parse([*extra, *arguments])


def _spec(options: Any, layout: Layout) -> ClusterSpec:
    """The spec of a cluster there was before, else a new one; raises CommandError where flags contradict it."""
    mode = "api-only" if options.api_only else "control-plane-only" if options.control_plane_only else "cluster"
    given: dict[str, Any] = {
        "datastore": LOCAL_ETCD if options.datastore == "etcd" else options.datastore,
        "etcd_prefix": options.etcd_prefix,
        "quota_backend_bytes": options.quota_backend_bytes,
        "network": options.network,
        "pod_cidr": options.pod_cidr,
        "service_cidr": options.service_cidr,
        "proxy_mode": options.proxy_mode,
        "ingress": options.ingress,
        "container_runtime_endpoint": options.container_runtime_endpoint,
        "kubeconfig": str(options.kubeconfig.absolute()) if options.kubeconfig else None,
    }
    for name in ("etcd_cafile", "etcd_certfile", "etcd_keyfile", "encryption_provider_config"):
        path = getattr(options, name)
        given[name] = str(path.absolute()) if path else None
    if options.simulated_nodes is not None:
        if not 0 <= options.simulated_nodes <= MAX_SIMULATED_NODES:
            raise UsageError(f"--simulated-nodes must be between 0 and {MAX_SIMULATED_NODES}")
        if options.api_only and options.simulated_nodes:
            raise UsageError("--simulated-nodes needs controllers; use --control-plane-only instead of --api-only")
        given["simulated_nodes"] = options.simulated_nodes
    if options.component_ports is not None:
        if not 0 <= options.component_ports <= 65500:
            raise UsageError("--component-ports must be between 0 and 65500")
        given["component_ports"] = options.component_ports
    if options.node_monitor_grace_period is not None:
        given["node_monitor_grace_period"] = options.node_monitor_grace_period.total_seconds()
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    known = specs.load(layout.spec)
    if known is None:
        if options.nodes is not None and not 1 <= options.nodes <= MAX_NODES:
            raise UsageError(f"--nodes must be between 1 and {MAX_NODES}; for none use --control-plane-only")
        spec = ClusterSpec(name=options.name, mode=mode, api_port=preflight.choose_port(options.api_port))
        if mode == "cluster":
            for number in range(1, (options.nodes or 2) + 1):
                spec, _ = spec.with_node(f"{options.name}-{number}")
    else:
        if mode not in ("cluster", known.mode):
            raise CommandError(f'cluster "{known.name}" was made as {known.mode}; `tiphys down --purge` first')
        if options.nodes is not None and options.nodes != len(known.nodes):
            raise CommandError(
                f'cluster "{known.name}" has {len(known.nodes)} nodes; use `tiphys node add` or `tiphys node remove`'
            )
        if options.api_port is not None:
            changes["api_port"] = options.api_port
        for flag, own in (("pod_cidr", known.pod_cidr), ("service_cidr", known.service_cidr)):
            if changes.get(flag, own) != own:
                words = f"--{flag.replace('_', '-')} {own}"
                raise CommandError(f'cluster "{known.name}" was made with {words}; `tiphys down --purge` first')
        spec = known
        preflight.check_port(changes.get("api_port", spec.api_port))
    spec = replace(spec, **changes)
    specs.check_ranges(spec.pod_cidr, spec.service_cidr)
    return spec


def _prepare(spec: ClusterSpec, layout: Layout, progress: Progress) -> ClusterSpec:
    """Everything that must be there before the first process: spec, certificates, network, places of the nodes."""
    layout.run.mkdir(parents=True, exist_ok=True)
    if not spec.kubeconfig:
        name = "tiphys" if spec.name == "tiphys" else f"tiphys-{spec.name}"
        spec = replace(spec, kubeconfig=str(Path.home() / ".kube" / f"{name}.yaml"))
    try:
        layout.link()
    except FileExistsError:
        usual = Layout.of(spec.name).state
        raise CommandError(f'cluster "{spec.name}" has its state in {usual.resolve()}; choose another --name') from None
    if spec.mode == "cluster" and not spec.subnet:
        spec = hostnet.take_subnet(spec, layout)
    specs.save(spec, layout.spec)
    with progress.part("certificates"):
        try:
            identities.ensure(spec, layout)
        except PkiError as error:
            raise CommandError(f"{error}; restore it, or start anew with `tiphys down --purge`") from error
        _write_user_kubeconfig(spec, layout)
    if spec.mode == "cluster":
        with progress.part("network and nodes' places"):
            hostnet.ensure(spec, layout)
            place.pin_host_network(layout)
            for node in spec.nodes:
                place.ensure(spec, layout, node)
    return spec


def _write_user_kubeconfig(spec: ClusterSpec, layout: Layout) -> None:
    target = Path(spec.kubeconfig)
    try:
        write_private(target, layout.kubeconfig("admin").read_bytes())
    except OSError as error:
        raise CommandError(f"cannot write the kubeconfig {target}: {error.strerror}") from error


def _start_daemon(spec: ClusterSpec, layout: Layout) -> None:
    """Fork the supervisor away from this terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o022)
        daemon.start(spec, layout)
    os.waitpid(pid, 0)


def _follow(control: ControlClient, spec: ClusterSpec, layout: Layout, progress: Progress) -> None:
    """Show what becomes ready until the cluster is; raises CommandError when something does not come up."""
    waiting_for = {*AWAITED[spec.mode], *((SIMULATOR,) if spec.simulated_nodes else ())}
    failures: dict[str, int] = {}
    awaited = ""
    progress.doing("starting the API server")
    try:
        for event in control.watch(READY_WITHIN):
            name, what = event.get("component", ""), event["event"]
            if what == "ended":
                failures[name] = failures.get(name, 0) + 1
                if failures[name] >= 5:
                    raise CommandError(f"{name} {event['how']} again and again; see {layout.log(name)}")
            elif what == "ready" and name in LABELS:
                progress.done(LABELS[name], event["after"])
            elif what == "waiting":
                awaited = event["for"]
                progress.doing(awaited)
            elif what == "progress":
                progress.done(event["what"], event["at"])
            if what in ("ready", "done"):
                waiting_for.discard(name)
            if not waiting_for:
                progress.end()
                return
    except TimeoutError as error:
        still = f" ({awaited})" if awaited else ""
        raise CommandError(
            f"the cluster is not ready after {READY_WITHIN:.0f} s without progress{still}; `tiphys status` and the "
            f"logs in {layout.logs} say more"
        ) from error
    raise CommandError(f"the supervisor ended; see {layout.log('supervisor')}")


def _already_running(control: ControlClient, layout: Layout, options: Any, progress: Progress) -> int:
    known = specs.load(layout.spec)
    if known is None:
        raise CommandError(f"a supervisor runs, but {layout.spec} is gone; `tiphys down --name {options.name}`")
    if options.nodes is not None and options.nodes != len(known.nodes):
        raise CommandError(
            f'cluster "{known.name}" is running with {len(known.nodes)} nodes; '
            "use `tiphys node add` or `tiphys node remove`"
        )
    if options.api_port is not None and options.api_port != known.api_port:
        raise CommandError(f'cluster "{known.name}" is running on port {known.api_port}; `tiphys down` first')
    progress.line(f'Cluster "{known.name}" is running already.')
    _write_user_kubeconfig(known, layout)
    _follow(control, known, layout, progress)
    _farewell(known, progress)
    return 0


def _farewell(spec: ClusterSpec, progress: Progress) -> None:
    progress.line(f"Ready after {progress.elapsed:.2f} s.\n")
    progress.line(f"  export KUBECONFIG={spec.kubeconfig}")
    suffix = "" if spec.name == "tiphys" else f" --name {spec.name}"
    if spec.mode == "cluster":
        progress.line("  kubectl get nodes -o wide")
        progress.line("  kubectl create deployment hello --image=busybox -- httpd -f -p 8080")
    progress.line(f"  tiphys status{suffix}      tiphys down{suffix}")
