"""`tiphys simulate`: nodes and pods that live in the API alone; works with any cluster's kubeconfig."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from tiphys.base.notify import notify, notify_ready
from tiphys.base.tasks import Supervised
from tiphys.cmd.component import add_common_flags, begin_logging, connect, run
from tiphys.cmd.errors import UsageError
from tiphys.cmd.flags import FlagParser
from tiphys.cmd.health import add_health_flags, health_served
from tiphys.machinery.quantity import Quantity
from tiphys.simulation import NodeTemplate, Simulator
from tiphys.simulation.nodes import MAX_NODES

PROGRESS_SECONDS: Final = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run the command until it is ended."""
    flags = FlagParser(
        "simulate", "Simulate nodes, and pods on every node labelled simulation.tiphys.dev/simulated=true."
    )
    add_common_flags(flags)
    usual = NodeTemplate()
    flags.add_argument("--nodes", type=int, default=0, help="how many nodes to make; those of the user need none")
    flags.add_argument("--cpu", default=usual.cpu, help=f"cores of each ({usual.cpu})")
    flags.add_argument("--memory", default=usual.memory, help=f"memory of each ({usual.memory})")
    flags.add_argument("--pods", type=int, default=usual.pods, help=f"pods on each at most ({usual.pods})")
    flags.add_argument("--zones", type=int, default=usual.zones, help="zones the nodes are spread over (1)")
    add_health_flags(flags)
    flags.boolean("tainted", False, "only pods that tolerate simulation.tiphys.dev/simulated come to them")
    options = flags.parse(arguments)
    begin_logging(options.verbosity)
    if not 0 <= options.nodes <= MAX_NODES:
        raise UsageError(f"--nodes must be between 0 and {MAX_NODES}")
    if options.zones < 1 or options.pods < 0:
        raise UsageError("--zones must be at least 1, --pods at least 0")
    for flag in ("cpu", "memory"):
        try:
            Quantity.parse(getattr(options, flag))
        except ValueError as error:
            raise UsageError(f"--{flag}: {error}") from error
    template = NodeTemplate(
        cpu=options.cpu, memory=options.memory, pods=options.pods, zones=options.zones, tainted=options.tainted
    )

    async def work() -> None:
        async with (
            connect(options.kubeconfig, "tiphys-simulator") as client,
            health_served(client, options.bind_address, options.secure_port),
            Supervised() as tasks,
        ):
            simulator = Simulator(client, options.nodes, template)
            tasks.spawn(simulator.run, name="simulator")
            while not simulator.ready.is_set():
                # Thousands take a while; whoever waits should see that it goes on.
                notify("waiting", **{"for": f"making simulated nodes: {simulator.made} of {options.nodes}"})
                with suppress(TimeoutError):
                    await asyncio.wait_for(simulator.ready.wait(), PROGRESS_SECONDS)
            notify_ready()
            await tasks.wait()

    return run(work)
