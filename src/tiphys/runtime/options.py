"""Options of one node's runtime, and the paths that follow from them.

root   /var/lib/tiphys/<cluster>/nodes/<node>/runtime   survives the machine's restart
         sandboxes/<id>/state.json, hostname, resolv.conf, hosts
         containers/<id>/state.json, diff/ (what the container wrote), work/, volumes/
run    /run/tiphys/<cluster>/<node>/runtime             empty after the machine's restart
         sandboxes/<id>/ns/{net,ipc,uts,user}, shm
         containers/<id>/ config.json, rootfs/, mounts/, pid, ctl, attach   (the OCI bundle)
         exits/<id>        written by conmon when the container ends
         oci/              state of runc
images /var/lib/tiphys/<cluster>/images                 shared by the nodes of one machine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How registries are reached."""

    # Host to the base URLs tried before the host itself, as `{"docker.io": ["http://127.0.0.1:5000"]}`.
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Directory of `<host[:port]>/ca.crt` files, as containerd's and Docker's certs.d.
    certs_dir: Path = Path("/etc/containers/certs.d")
    insecure: frozenset[str] = frozenset()  # hosts whose certificate is not verified, or that speak plain HTTP
    parallel_layers: int = 3
    # Registries are reached from this network namespace; None: the runtime's own. The nodes of one machine have
    # theirs, and a registry on the machine's loopback would be out of reach.
    netns: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Everything one runtime process is told."""

    root: Path
    run: Path
    images: Path
    listen: str  # unix:///path/to/tiphys.sock
    node: str = "node"  # names this runtime's leases in the shared image store
    streaming_address: str = "127.0.0.1"
    streaming_port: int = 0
    runtimes: Mapping[str, str] = field(default_factory=lambda: {"runc": "runc"})  # handler to binary
    default_runtime: str = "runc"
    conmon: str = "conmon"
    pause_image: str = "registry.k8s.io/pause:3.10.1"
    default_cgroup_parent: str = "/tiphys"
    cdi_directories: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))  # of devices by name
    seccomp_profiles: Path = Path("/var/lib/kubelet/seccomp")
    registry: RegistryOptions = field(default_factory=RegistryOptions)
    workers: int = 24  # threads for blocking work

    @property
    def socket(self) -> Path:
        """The file behind `listen`."""
        return Path(self.listen.removeprefix("unix://"))

    @property
    def exits(self) -> Path:
        """Where conmon puts `<container id>` with the exit code."""
        return self.run / "exits"

    @property
    def oci_root(self) -> Path:
        """State of the OCI runtime."""
        return self.run / "oci"

    def sandbox_root(self, sandbox_id: str) -> Path:
        return self.root / "sandboxes" / sandbox_id

    def sandbox_run(self, sandbox_id: str) -> Path:
        return self.run / "sandboxes" / sandbox_id

    def container_root(self, container_id: str) -> Path:
        return self.root / "containers" / container_id

    def bundle(self, container_id: str) -> Path:
        """The OCI bundle of a container."""
        return self.run / "containers" / container_id

    def mounts(self, container_id: str) -> Path:
        """Volumes as the users of a container's pod see them, until it has started and has its own."""
        return self.bundle(container_id) / "mounts"
