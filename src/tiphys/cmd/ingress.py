"""`tiphys ingress`: HTTP from outside the cluster, as Ingress and Gateway objects say, through HAProxy on one node.

Runs in the node's network namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Informers
from tiphys.cmd.cluster.place import join_cgroup
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.ingress.controller import IngressConfig, IngressController
from tiphys.ingress.haproxy.process import HaproxyError


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("ingress", "Serve Ingress and Gateway objects on a node.")
    add_common_flags(flags)
    flags.add_argument("--node-name", required=True, help="the node this runs on")
    flags.add_argument("--directory", type=Path, required=True, help="where the proxy's files are, for it alone")
    flags.add_argument("--http-port", type=int, default=80, help="port of Ingresses")
    flags.add_argument("--https-port", type=int, default=443, help="port of Ingresses with TLS")
    flags.add_argument("--status-bind-address", default="0.0.0.0:10254", help="/healthz and /metrics of the proxy")
    flags.listing("publish-address", [], "addresses for statuses; none: those of the nodes that are Ready")
    flags.add_argument("--cgroup", default="", help="the cgroup to run in")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    if options.cgroup:
        join_cgroup(options.cgroup)
    config = IngressConfig(
        node_name=options.node_name,
        directory=options.directory,
        ports=(options.http_port, options.https_port),
        status_address=options.status_bind_address,
        addresses=tuple(options.publish_address),
    )

    async def work() -> None:
        async with connect(options.kubeconfig, "tiphys-ingress") as client, Supervised() as tasks:
            informers = Informers(client)
            try:
                controller = IngressController(client, informers, config)
            except HaproxyError as error:
                raise CommandError(str(error)) from error
            tasks.spawn(controller.run, name="ingress")
            tasks.spawn(informers.run, name="informers")
            await controller.ready.wait()
            notify_ready()
            await tasks.wait()

    return run(work)
