"""`tiphys COMMAND`: finds the command's module and runs it. Nothing else is imported before that."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Final

import tiphys
from tiphys.cmd.errors import CommandError, UsageError

# Command → its module and what it does; the order is that of the help text.
CLUSTER_COMMANDS: Final = {
    "up": ("up", "start a cluster on this machine, or start it again"),
    "down": ("down", "stop it and take everything away it made; --purge: its state too"),
    "status": ("status", "every process with its state, memory and restarts; nodes and addresses"),
    "kubeconfig": ("kubeconfig", "print the kubeconfig of a cluster"),
    "node": ("node", "add, remove, stop or start a node"),
    "image": ("image", "import, build, pull, list images"),
    "token": ("token", "make a token with which another machine joins"),
    "etcd": ("etcd", "snapshots, compaction, defragmentation and alarms of a cluster's state"),
    "agent": ("agent", "join this machine to a cluster as a node"),
}
DEBUG: Final = "TIPHYS_DEBUG"
COMPONENTS: Final = {
    "apiserver": ("apiserver", "the API server"),
    "controller-manager": ("controller_manager", "the controllers"),
    "scheduler": ("scheduler", "the scheduler"),
    "kubelet": ("kubelet", "the node agent"),
    "proxy": ("proxy", "services on a node"),
    "runtime": ("runtime", "the container runtime: a CRI v1 server"),
    "network": ("network", "routes between the nodes' pods"),
    "dns": ("dns", "the cluster's name server"),
    "ingress": ("ingress", "HTTP from outside: Ingress and Gateway API on a node"),
    "simulate": ("simulate", "nodes and pods that live in the API alone"),
}


def usage() -> str:
    """The help text."""

    def table(commands: dict[str, tuple[str, str]]) -> str:
        return "\n".join(f"  {name:<20}{what}" for name, (_, what) in commands.items())

    return (
        f"Tiphys {tiphys.__version__}: Kubernetes {tiphys.KUBERNETES_VERSION}, written in Python.\n\n"
        f"Usage: tiphys COMMAND [flags]\n\nClusters:\n{table(CLUSTER_COMMANDS)}\n\n"
        f"Components, one at a time:\n{table(COMPONENTS)}\n\n"
        "Use 'tiphys COMMAND --help' for the flags of a command."
    )


def imported(name: str) -> ModuleType:
    """Import a module that brings many along: none of it is garbage, so nobody looks for any, then or later."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 (it failed), 2 (the command line is wrong)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if words[0] in ("-v", "--version", "version"):
        print(f"tiphys {tiphys.__version__} (Kubernetes {tiphys.KUBERNETES_VERSION})")
        return 0
    known = CLUSTER_COMMANDS | COMPONENTS
    if words[0] not in known:
        print(f"tiphys: unknown command \"{words[0]}\". Run 'tiphys --help' for those there are.", file=sys.stderr)
        return 2
    # NumPy's linear algebra would start a thread per core, and threads and fork do not go together.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # uvloop starts programs by a plain fork, in which gRPC's own handlers may end the child before the program runs.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        module = imported(f"tiphys.cmd.{known[words[0]][0]}")
        return int(module.main(words[1:]))
    except UsageError as error:
        print(f"tiphys {words[0]}: {error}", file=sys.stderr)
        return 2
    except CommandError as error:
        print(f"tiphys {words[0]}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output (`head`) has enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        return _unexpected(words[0], error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _unexpected(words[0], error)


def _unexpected(command: str, error: Exception) -> int:
    """One line for what nobody thought of; TIPHYS_DEBUG=1 shows where it came from."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    what = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else repr(error)
    print(f"tiphys {command}: {what} ({DEBUG}=1 shows more)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
