"""Where the kubelet keeps things on the node, under its root directory, as upstream lays it out.

```
 <root>/pods/<uid>/etc-hosts
 <root>/pods/<uid>/containers/<name>/<id>            termination message
 <root>/pods/<uid>/volumes/<plugin>/<volume>
 <root>/pods/<uid>/volume-subpaths/<volume>/<container>/<n>
 <root>/plugins/<plugin>/…
 <root>/device-plugins/kubelet.sock
 <root>/pod-resources/kubelet.sock
 <logs>/<namespace>_<name>_<uid>/<container>/<restart>.log
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tiphys.api.core.v1 import Pod
from tiphys.kubelet.pod import PodUID


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout under `root`; `logs` is the directory of pod logs."""

    root: Path
    logs: Path

    @property
    def pods(self) -> Path:
        return self.root / "pods"

    @property
    def plugins(self) -> Path:
        return self.root / "plugins"

    @property
    def device_plugins(self) -> Path:
        return self.root / "device-plugins"

    def pod(self, uid: PodUID | str) -> Path:
        return self.pods / uid

    def volumes(self, uid: PodUID | str) -> Path:
        return self.pod(uid) / "volumes"

    def volume(self, uid: PodUID | str, plugin: str, name: str) -> Path:
        """The directory of one volume; a plugin's name has `/` written as `~`."""
        return self.volumes(uid) / plugin.replace("/", "~") / name

    def subpaths(self, uid: PodUID | str) -> Path:
        return self.pod(uid) / "volume-subpaths"

    def containers(self, uid: PodUID | str) -> Path:
        return self.pod(uid) / "containers"

    def hosts(self, uid: PodUID | str) -> Path:
        return self.pod(uid) / "etc-hosts"

    def pod_logs(self, pod: Pod) -> Path:
        return self.logs / log_directory(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)


def log_directory(namespace: str, name: str, uid: str) -> str:
    return f"{namespace}_{name}_{uid}"


def log_path(container: str, restart_count: int) -> str:
    """A container's log, relative to its pod's log directory."""
    return f"{container}/{restart_count}.log"
