"""`tiphys down`: a cluster ends, and everything it made is gone; with --purge its state too."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tiphys.cmd.cluster import hostnet, place
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.control import ControlClient
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import holder, send
from tiphys.cmd.cluster.progress import Progress
from tiphys.cmd.errors import CommandError
from tiphys.cmd.flags import FlagParser
from tiphys.runtime import linux

END_WITHIN: Final = 20.0  # seconds for the supervisor to end all it started


def main(arguments: Sequence[str]) -> int:
    """Run `tiphys down`."""
    flags = FlagParser("down", "Stop a cluster and take away everything it made on this machine.")
    flags.add_argument("--name", default="tiphys", help="name of the cluster")
    flags.add_argument("--purge", action="store_true", help="remove its state as well")
    flags.add_argument("--state-dir", type=Path, help="where its state is kept, if not in the usual place")
    options = flags.parse(arguments)
    layout = Layout.of(options.name, options.state_dir)
    progress = Progress()
    if not layout.run.is_dir() and not layout.state.is_dir():
        progress.line(f'There is no cluster "{options.name}".')
        return 0
    if layout.run.is_dir() and not os.access(layout.run, os.W_OK):
        raise CommandError(f'cluster "{options.name}" belongs to another user')
    with progress.part("processes"):
        _end_supervisor(layout)
        _end_stragglers(layout)
    with progress.part("containers, namespaces, links, rules"):
        remove_places(layout)
    if options.purge:
        with progress.part("state"):
            _purge(layout)
    return 0


def stop_cluster(layout: Layout) -> None:
    """End a cluster and take away what it made, without a word; its state stays."""
    _end_supervisor(layout)
    _end_stragglers(layout)
    remove_places(layout)


def _end_supervisor(layout: Layout) -> None:
    control = ControlClient.connect(layout)
    if control is not None:
        with suppress(CommandError, OSError):
            control.ask("stop")
        control.close()
    supervisor = layout.run / "pids" / "supervisor.pid"
    deadline = time.monotonic() + END_WITHIN
    while holder(supervisor) is not None and time.monotonic() < deadline:
        time.sleep(0.01)


def _end_stragglers(layout: Layout) -> None:
    """Components whose supervisor is gone, or that do not end: killed, the guard first so that nothing comes back."""
    layout.run.mkdir(parents=True, exist_ok=True)
    (layout.run / "stopping").touch()
    pids = layout.run / "pids"
    files = sorted(pids.glob("*.pid"), key=lambda path: path.name not in ("guard.pid", "supervisor.pid"))
    deadline = time.monotonic() + END_WITHIN
    for path in files:
        while (pid := holder(path)) is not None and time.monotonic() < deadline:
            send(pid, signal.SIGKILL)
            time.sleep(0.005)


def remove_places(layout: Layout) -> None:
    """Containers, namespaces, mounts, links, rules and cgroups of every node, then the run directory."""
    nodes = _nodes(layout)
    if os.geteuid() == 0:
        for node in nodes:
            place.freeze(layout, node, False)
            place.remove(layout, node)
        place.remove_cgroup(layout.cgroup)
        hostnet.remove(layout.name, layout)
        place.remove_pins(layout)
        unmount_below(layout.run)
        unmount_below(layout.state)
    shutil.rmtree(layout.run, ignore_errors=True)
    with suppress(OSError):
        layout.run.parent.rmdir()  # no cluster is left: nobody mounts there any more
        if os.geteuid() == 0:
            place.remove_known_directories()
            place.leave_namespaces_directory()


def _nodes(layout: Layout) -> list[str]:
    """Nodes of the spec, and those that only have left something behind."""
    names: set[str] = set()
    with suppress(CommandError):
        found = specs.load(layout.spec)
        if found is not None:
            names.update(node.name for node in found.nodes)
    prefix = layout.network_namespace("")
    if place.NETNS_DIRECTORY.is_dir():
        names.update(path.name.removeprefix(prefix) for path in place.NETNS_DIRECTORY.glob(f"{prefix}*"))
    for cgroup in place.cgroups_of(layout.cgroup):
        names.update(path.name for path in cgroup.iterdir() if path.is_dir())
    return sorted(names)


def unmount_below(directory: Path) -> None:
    """Unmount everything at or below a directory, the deepest first."""
    below = f"{directory}/"
    for _ in range(8):  # mounts may be stacked
        found = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        ours = sorted(
            (path for path in found if path == str(directory) or path.startswith(below)), key=len, reverse=True
        )
        if not ours:
            return
        for path in sorted(ours, key=len, reverse=True):
            linux.unmount(path)


def _purge(layout: Layout) -> None:
    kubeconfig = None
    with suppress(CommandError):
        found = specs.load(layout.spec)
        kubeconfig = Path(found.kubeconfig) if found is not None and found.kubeconfig else None
    if kubeconfig is not None and kubeconfig.exists():
        _remove_kubeconfig(kubeconfig, layout)
    usual = Layout.of(layout.name).state
    try:
        shutil.rmtree(layout.state.resolve())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CommandError(f"cannot remove {error.filename}: {error.strerror}") from error
    layout.unlink()
    with suppress(OSError):
        usual.parent.rmdir()


def _remove_kubeconfig(path: Path, layout: Layout) -> None:
    """Remove the file `up` wrote, unless somebody has changed it since."""
    with suppress(OSError):
        if path.read_bytes() == layout.kubeconfig("admin").read_bytes():
            path.unlink()
            path.parent.rmdir()  # only when nothing else is in it
