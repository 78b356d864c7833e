"""`tiphys runtime`: the container runtime, a CRI v1 server. Runs in its node's network and mount namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from tiphys.base.log import get_logger
from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.cmd.component import add_common_flags, begin_logging, run
from tiphys.cmd.flags import FlagParser
from tiphys.network.cni.model import NetworkError
from tiphys.network.cni.setup import PodNetworks
from tiphys.runtime.network import NetworkResult, NetworkStatus, PodNetwork
from tiphys.runtime.options import RegistryOptions, RuntimeOptions
from tiphys.runtime.server import RuntimeServer

log = get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("runtime", "The container runtime: a CRI v1 server.")
    add_common_flags(flags, kubeconfig=False)
    flags.add_argument("--listen", default="unix:///run/tiphys/tiphys.sock", help="where it serves CRI")
    flags.add_argument("--root", type=Path, default=Path("/var/lib/tiphys/runtime"), help="state that stays")
    flags.add_argument("--state", type=Path, default=Path("/run/tiphys/runtime"), help="state that does not")
    flags.add_argument("--images", type=Path, default=Path("/var/lib/tiphys/images"), help="images, shared by nodes")
    flags.add_argument("--node-name", default="node", help="name this runtime has in the image store")
    flags.add_argument("--cgroup-parent", default="/tiphys", help="cgroup of pods that name none")
    flags.add_argument("--oci-runtime", default="runc", help="the OCI runtime: runc or crun")
    flags.add_argument("--subnet-file", type=Path, help="file by which the network agent gives the node's range")
    flags.add_argument("--network-state", type=Path, help="where addresses given to pods are kept")
    flags.add_argument("--cni-conf-dir", type=Path, help="configuration of other CNI plugins, if any")
    flags.listing("cni-bin-dir", ["/opt/cni/bin"], "where their programs are")
    flags.add_argument("--registry-netns", type=Path, help="network namespace that images are pulled in")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    runtime = RuntimeOptions(
        root=options.root,
        run=options.state,
        images=options.images,
        listen=options.listen,
        node=options.node_name,
        runtimes={options.oci_runtime: options.oci_runtime},
        default_runtime=options.oci_runtime,
        default_cgroup_parent=options.cgroup_parent,
        registry=RegistryOptions(netns=options.registry_netns),
    )

    async def work() -> None:
        networks = PodNetworks(
            subnet_file=options.subnet_file or options.state / "subnet.json",
            state=options.network_state or options.root / "network",
            conf_dir=options.cni_conf_dir,
            bin_dirs=[Path(directory) for directory in options.cni_bin_dir],
        )
        network = NetworkOfPods(networks)
        server = RuntimeServer(runtime, network)
        try:
            async with Supervised() as tasks:
                tasks.spawn(server.run, name="runtime")
                await server.ready.wait()
                await network.recovered(server.recovered)
                notify_ready(listen=runtime.listen)
                await tasks.wait()
        finally:
            networks.close()

    return run(work)


class NetworkOfPods:
    """The pod network in the runtime's words: neither room knows the other's types.

    What a crash left (addresses, links, ports of sandboxes that are gone) is freed once: as soon as it is known
    which sandboxes live and the node has its range, and before another sandbox is connected.
    """

    def __init__(self, networks: PodNetworks) -> None:
        self._networks = networks
        self._recovered: frozenset[str] | None = None
        self._added: set[str] = set()
        self._collected = False
        self._one_at_a_time = asyncio.Lock()

    async def recovered(self, sandboxes: frozenset[str]) -> None:
        """These sandboxes of an earlier runtime live; what belongs to any other can go."""
        self._recovered = sandboxes
        await self._collect()

    async def _collect(self) -> None:
        async with self._one_at_a_time:
            if self._collected or self._recovered is None or not self._networks.status().ready:
                return
            self._collected = True
            try:
                removed = await self._networks.gc(self._recovered | self._added)
            except (NetworkError, OSError) as error:
                log.warning("what lost sandboxes had of the network stays: %s", error)
                return
            if removed:
                log.info("freed what %d lost sandboxes had of the network", len(removed))

    async def add(self, pod: PodNetwork) -> NetworkResult:
        self._added.add(pod.sandbox_id)
        await self._collect()
        found = await self._networks.add(pod)
        return NetworkResult(ips=found.ips, interfaces=(found.interface,))

    async def delete(self, pod: PodNetwork) -> None:
        await self._networks.delete(pod)

    async def check(self, pod: PodNetwork) -> None:
        await self._networks.check(pod)

    def status(self) -> NetworkStatus:
        found = self._networks.status()
        return NetworkStatus(found.ready, found.reason, found.message)

    async def update_config(self, pod_cidr: str) -> None:
        await self._networks.update_config(pod_cidr)
