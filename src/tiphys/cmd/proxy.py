"""`tiphys proxy`: services on one node, with kube-proxy's flag names. Runs in the node's network namespace."""

from __future__ import annotations

from collections.abc import Sequence

from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Informers
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser
from tiphys.proxy.config import ConfigError, ProxyConfig, check_mode
from tiphys.proxy.proxier import Proxy


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("proxy", "Services on a node.")
    add_common_flags(flags)
    flags.add_argument("--hostname-override", required=True, help="name of the node")
    flags.add_argument("--proxy-mode", default="nftables", help="nftables")
    flags.add_argument("--cluster-cidr", default="10.244.0.0/16", help="range of pod addresses")
    flags.boolean("masquerade-all", False, "masquerade everything sent to a service")
    flags.listing("nodeport-addresses", [], "node addresses that answer on node ports; none: the primary ones")
    flags.add_argument("--healthz-bind-address", default="0.0.0.0:10256", help="health server")
    flags.add_argument("--metrics-bind-address", default="127.0.0.1:10249", help="metrics server")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    try:
        check_mode(options.proxy_mode)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    config = ProxyConfig(
        cluster_cidr=options.cluster_cidr,
        masquerade_all=options.masquerade_all,
        node_port_addresses=tuple(options.nodeport_addresses),
        healthz_bind_address=options.healthz_bind_address,
        metrics_bind_address=options.metrics_bind_address,
    )

    async def work() -> None:
        async with connect(options.kubeconfig, "kube-proxy") as client, Supervised() as tasks:
            informers = Informers(client)
            proxy = Proxy(client, informers, options.hostname_override, options.proxy_mode, config)
            tasks.spawn(proxy.run, name="proxy")
            tasks.spawn(informers.run, name="informers")
            await proxy.ready.wait()
            notify_ready()
            await tasks.wait()

    return run(work)
