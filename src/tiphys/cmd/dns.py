"""`tiphys dns`: the cluster's name server, configured by a Corefile. Runs in a container of kube-system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiphys.base.notify import notify_ready
from tiphys.base.tasks import Supervised
from tiphys.client import Informers
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser
from tiphys.dns import CorefileError, DnsServer


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser("dns", "The cluster's name server.")
    add_common_flags(flags)
    flags.add_argument("--conf", "-conf", type=Path, default=Path("/etc/coredns/Corefile"), help="the Corefile")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)

    async def work() -> None:
        async with connect(options.kubeconfig, "coredns") as client, Supervised() as tasks:
            informers = Informers(client)
            try:
                server = DnsServer(options.conf, client, informers)
            except (CorefileError, OSError) as error:
                raise UsageError(str(error)) from error
            tasks.spawn(server.run, name="dns")
            tasks.spawn(informers.run, name="informers")
            await server.ready.wait()
            notify_ready()
            await tasks.wait()

    return run(work)
