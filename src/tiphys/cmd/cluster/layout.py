"""Where a cluster's files lie.

STATE (/var/lib/tiphys/NAME, or ~/.local/share/tiphys/NAME without root)   survives `down`
  cluster.json          the spec
  pki/                  certificates and keys, as kubeadm lays them out
  kubeconfig/           one file a component
  store/                the embedded datastore
  images/               content and unpacked layers, shared by the nodes
  nodes/NODE/           kubelet/ and runtime/ of each node
  logs/COMPONENT.log
RUN (/run/tiphys/NAME, or $XDG_RUNTIME_DIR/tiphys/NAME without root)       gone after `down`
  supervisor.sock       where the command line talks to the supervisor
  processes.json        what runs, for a supervisor that has to take over
  ns/NODE.mnt           the pinned mount namespace of each node
  nodes/NODE/           sockets and run-time state of each node
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one cluster."""

    name: str
    state: Path
    run: Path

    @classmethod
    def of(cls, name: str, state_dir: Path | None = None) -> Layout:
        """The layout of the cluster `name`; `state_dir`, if given, is the cluster's own directory.

        The state of a cluster with a directory of its own is found again by name, through a link where it
        would be otherwise (see `link`).
        """
        if os.geteuid() == 0:
            state_root, run_root = Path("/var/lib/tiphys"), Path("/run/tiphys")
        else:
            data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
            runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/tiphys-{os.geteuid()}"
            state_root, run_root = Path(data) / "tiphys", Path(runtime) / "tiphys"
        return cls(name, (state_dir or state_root / name).absolute(), run_root / name)

    def link(self) -> None:
        """Make the state of a directory of its own findable by name. Raises FileExistsError for another one's."""
        usual = Layout.of(self.name).state
        if self.state == usual or usual.resolve() == self.state.resolve():
            return
        usual.parent.mkdir(parents=True, exist_ok=True)
        usual.symlink_to(self.state)

    def unlink(self) -> None:
        """Take back `link`."""
        usual = Layout.of(self.name).state
        if usual.is_symlink():
            usual.unlink()

    @property
    def spec(self) -> Path:
        return self.state / "cluster.json"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def store(self) -> Path:
        return self.state / "store"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def started(self) -> Path:
        """Touched when the cluster is started; not when one supervisor takes over from another."""
        return self.run / "started"

    def kubeconfig(self, component: str) -> Path:
        """The kubeconfig file of a component, or `admin`."""
        return self.state / "kubeconfig" / f"{component}.conf"

    def log(self, component: str) -> Path:
        return self.logs / f"{component.replace('/', '-')}.log"

    def node_state(self, node: str) -> Path:
        return self.state / "nodes" / node

    def node_run(self, node: str) -> Path:
        return self.run / "nodes" / node

    def mount_namespace(self, node: str) -> Path:
        return self.run / "ns" / f"{node}.mnt"

    def network_namespace(self, node: str) -> str:
        """Name of the node's network namespace, as `ip netns` shows it."""
        return f"tiphys-{self.name}-{node}"

    @property
    def cgroup(self) -> str:
        """Name of the cluster's cgroup below the root of every hierarchy."""
        return f"tiphys-{self.name}"


def known_clusters() -> list[str]:
    """Names of the clusters that have run-time files on this machine, running or left by a crash."""
    root = Layout.of("x").run.parent
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
