"""The supervisor as a daemon: how it begins, takes over, changes the set of nodes, and ends."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

from tiphys.base.log import get_logger, setup_logging
from tiphys.cmd.cluster import identities, place
from tiphys.cmd.cluster import spec as specs
from tiphys.cmd.cluster.components import IMAGES_JOB, all_components, node_components, setup_job
from tiphys.cmd.cluster.control import ControlServer
from tiphys.cmd.cluster.layout import Layout
from tiphys.cmd.cluster.process import AlreadyRunning
from tiphys.cmd.cluster.spec import ClusterSpec
from tiphys.cmd.cluster.supervisor import Supervisor, set_title
from tiphys.cmd.errors import CommandError

log = get_logger(__name__)

# What the forks share: imported once, before the first of them.
_API_ONLY: Final = ("tiphys.cmd.apiserver",)
_CONTROL_PLANE: Final = (*_API_ONLY, "tiphys.cmd.controller_manager", "tiphys.cmd.scheduler", "tiphys.cmd.setup")
_CLUSTER: Final = (
    *_CONTROL_PLANE,
    "tiphys.cmd.runtime",
    "tiphys.cmd.kubelet",
    "tiphys.cmd.proxy",
    "tiphys.cmd.network",
)
PRELOAD: Final = {"api-only": _API_ONLY, "control-plane-only": _CONTROL_PLANE, "cluster": _CLUSTER}


class ClusterDaemon:
    """One cluster's supervisor with the operations the command line asks for."""

    def __init__(self, spec: ClusterSpec, layout: Layout) -> None:
        self.spec = spec
        self.layout = layout
        modules = PRELOAD[spec.mode] + (("tiphys.cmd.simulate",) if spec.simulated_nodes else ())
        modules += ("tiphys.cmd.ingress",) if spec.ingress else ()
        self.supervisor = Supervisor(layout, all_components(spec, layout), modules)
        self.control = ControlServer(self)

    def serve(self, *, preload: bool = True) -> None:
        """Supervise until told to stop. Raises AlreadyRunning when another supervisor has the cluster."""
        self.supervisor.prepare()
        set_title(f"supervisor {self.spec.name}")
        (self.layout.run / "stopping").unlink(missing_ok=True)
        self.control.open()
        if preload:
            self.layout.started.touch()
            self.supervisor.begin(IMAGES_JOB)
            self.supervisor.preload()
        self.supervisor.run()
        self.control.close()

    # -- what the command line asks for ----------------------------------------------------------

    def add_node(self, name: str) -> dict[str, Any]:
        """Give the cluster one more node."""
        self._need_nodes()
        changed, node = self.spec.with_node(name)
        identities.ensure_node(changed, self.layout, node)
        place.ensure(changed, self.layout, node)
        self._change(changed)
        self.supervisor.add([*node_components(changed, self.layout, node), setup_job(changed, self.layout)])
        return {"node": name}

    def remove_node(self, name: str) -> dict[str, Any]:
        """Take a node away with everything that runs on it; its Node object is deleted by the setup job."""
        self._need_nodes()
        changed = self.spec.without_node(name)
        self.supervisor.halt(self._components_of(name), signal.SIGTERM, forget=True)
        place.remove(self.layout, name)
        self._change(changed)
        self.supervisor.add([setup_job(changed, self.layout)])
        return {"node": name}

    def stop_node(self, name: str) -> dict[str, Any]:
        """As if the machine hung: its components die, its containers stand still."""
        self.spec.node(name)
        self.supervisor.halt(self._components_of(name), signal.SIGKILL)
        place.freeze(self.layout, name, True)
        return {"node": name}

    def start_node(self, name: str) -> dict[str, Any]:
        """The machine is back: containers go on, its components start."""
        node = self.spec.node(name)
        place.ensure(self.spec, self.layout, node)
        place.freeze(self.layout, name, False)
        self.supervisor.add(node_components(self.spec, self.layout, node))
        return {"node": name}

    def stop(self) -> dict[str, Any]:
        """End everything; the namespaces are taken away by whoever asked."""
        for node in self.spec.nodes:
            place.freeze(self.layout, node.name, False)
        self.supervisor.stop()
        return {}

    def _components_of(self, node: str) -> list[str]:
        return [name for name, process in self.supervisor.processes.items() if process.component.node == node]

    def _need_nodes(self) -> None:
        if self.spec.mode != "cluster":
            raise CommandError(f'cluster "{self.spec.name}" was made without nodes ({self.spec.mode})')

    def _change(self, spec: ClusterSpec) -> None:
        specs.save(spec, self.layout.spec)
        self.spec = spec


def start(spec: ClusterSpec, layout: Layout) -> NoReturn:
    """Become the daemon of a new or stopped cluster; the caller has forked and left its terminal. Never returns."""
    status = 1
    try:
        _own_log(layout)
        ClusterDaemon(spec, layout).serve()
        status = 0
    except AlreadyRunning:
        log.warning('cluster "%s" has a supervisor already', spec.name)
    except BaseException:
        log.exception("the supervisor failed")
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def take_over(layout: Layout) -> NoReturn:
    """Become the supervisor in place of one that died; what it had imported is inherited. Never returns."""
    status = 1
    try:
        found = specs.load(layout.spec)
        if found is not None:
            ClusterDaemon(found, layout).serve(preload=False)
        status = 0
    except BaseException:
        log.exception("the new supervisor failed")
    finally:
        os._exit(status)


def _own_log(layout: Layout) -> None:
    path = layout.log("supervisor")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.close(null)
    setup_logging()
