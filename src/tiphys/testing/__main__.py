"""`python -m tiphys.testing [COMMAND…]`: run a command with a cluster, or keep one until interrupted.

`python -m tiphys.testing --envtest [COMMAND…]`: run the tests of a Go program that uses controller-runtime's envtest,
or print the variable that makes them use Tiphys.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from tiphys.testing.clusters import ClusterError, cluster
from tiphys.testing.envtest import VARIABLE, default_directory, write_assets


def main(arguments: Sequence[str]) -> int:
    """The command's exit status; 1 when there is no cluster, 127 when there is no such command."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if command[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if command[:1] == ["--envtest"]:
        return with_envtest(command[1:])
    try:
        with cluster() as found:
            if command:
                return subprocess.run(command, env=found.environment, check=False).returncode
            print(f"export KUBECONFIG={found.kubeconfig}", flush=True)
            with suppress(KeyboardInterrupt):
                signal.sigwait({signal.SIGINT, signal.SIGTERM})
            return 0
    except ClusterError as error:
        print(f"tiphys.testing: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError:
        print(f"tiphys.testing: {command[0]}: no such command", file=sys.stderr)
        return 127


def with_envtest(command: Sequence[str]) -> int:
    """Run `command` with KUBEBUILDER_ASSETS set, or print how to set it; the command's exit status, 127 without one."""
    assets = str(write_assets(default_directory()))
    if not command:
        print(f"export {VARIABLE}={shlex.quote(assets)}")
        return 0
    try:
        return subprocess.run(command, env={**os.environ, VARIABLE: assets}, check=False).returncode
    except FileNotFoundError:
        print(f"tiphys.testing: {command[0]}: no such command", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
