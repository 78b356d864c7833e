"""`tiphys kubeconfig`: prints the administrator's kubeconfig of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys kubeconfig`."""
    flags = FlagParser("kubeconfig", "Print the kubeconfig of a cluster.")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    options = flags.parse(arguments)
    path = Layout.of(options.name, options.state_dir).kubeconfig("admin")
    try:
        sys.stdout.write(path.read_text())
    except FileNotFoundError:
        raise CommandError(f'there is no cluster "{options.name}"; `tiphys up` makes one') from None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    return 0
