"""`tiphys node`: add, remove, stop or start a node of a running cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tiphys.cmd.cluster.control import ControlClient
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser

DONE: Final = {"add": "added", "remove": "removed", "stop": "stopped", "start": "started"}


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys node ACTION NODE`."""
    flags = FlagParser("node", "Change the nodes of a running cluster.")
    flags.add_argument("action", choices=tuple(DONE), help="stop: its processes die as if the machine hung")
    flags.add_argument("node", help="name of the node")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    options = flags.parse(arguments)
    control = ControlClient.connect(Layout.of(options.name, options.state_dir))
    if control is None:
        raise CommandError(f'cluster "{options.name}" is not running; `tiphys up` starts it')
    control.ask(f"{options.action}-node", node=options.node)
    print(f"node {options.node} {DONE[options.action]}")
    return 0
