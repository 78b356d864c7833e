"""`tiphys network`: routes between the pods of all nodes, and NetworkPolicy, kept on one node.

Runs in the node's network namespace."""

from __future__ import annotations

import ipaddress
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Informers
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.flags import FlagParser
from tiphys.network.agent import BACKENDS, NetworkAgent
from tiphys.network.balancer.agent import LoadBalancerAgent
from tiphys.network.balancer.assign import Pool
from tiphys.network.policy import gate
from tiphys.network.policy.agent import PolicyAgent


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("network", "Keep the routes between the nodes' pods.")
    add_common_flags(flags)
    flags.add_argument("--node-name", required=True, help="the node this runs on")
    flags.add_argument("--backend", choices=tuple(BACKENDS), default="vxlan", help="how packets reach other nodes")
    flags.add_argument("--cluster-cidr", default="10.244.0.0/16", help="range of all pods")
    flags.add_argument("--subnet-file", type=Path, required=True, help="where the node's own range is written")
    flags.add_argument("--network-state", type=Path, help="where the runtime keeps the addresses given to pods")
    flags.add_argument(
        "--load-balancer-pool",
        type=_pool,
        help="addresses for LoadBalancer Services, as 192.0.2.10-192.0.2.20; none: none",
    )
    options = flags.parse(arguments)
    begin_logging(options.verbosity)

    async def work() -> None:
        async with connect(options.kubeconfig, "tiphys-network") as client, Supervised() as tasks:
            informers = Informers(client)
            agent = NetworkAgent(
                client,
                informers,
                options.node_name,
                subnet_file=options.subnet_file,
                cluster_cidr=options.cluster_cidr,
                backend=options.backend,
            )
            policies = PolicyAgent(
                informers,
                options.node_name,
                socket=options.subnet_file.with_name(gate.SOCKET_NAME),
                versions=[ipaddress.ip_network(each).version for each in options.cluster_cidr.split(",")],
                addresses=options.network_state / "addresses" if options.network_state else None,
            )
            tasks.spawn(policies.run, name="policy agent")
            # Pods can be connected once there is a subnet file: from then on they must find the gate.
            await policies.listening.wait()
            tasks.spawn(agent.run, name="network agent")
            if options.load_balancer_pool is not None:
                balancer = LoadBalancerAgent(
                    client, informers, options.node_name, options.load_balancer_pool, on_addresses=agent.balance
                )
                tasks.spawn(balancer.run, name="load balancer", restart=True)
            tasks.spawn(informers.run, name="informers")
            await agent.ready.wait()
            await policies.ready.wait()
            notify_ready()
            await tasks.wait()

    return run(work)


def _pool(text: str) -> Pool | None:
    try:
        return Pool.parse(text) if text else None
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error
