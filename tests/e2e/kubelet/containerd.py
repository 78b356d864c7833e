"""containerd in our runtime's place: its own directory, socket and CNI plugin; nothing of it is left."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiphys.kubelet.mounts import unmount_below
from tiphys.runtime.images.assemble import ensure_busybox, ensure_pause
from tiphys.runtime.images.store import Image, ImageStore

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "runc")
START = 30.0  # seconds

CONFIG = """
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{root}/s"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/cni"
    conf_dir = "{root}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""

# A network of the pod's own loopback alone, as a CNI plugin: addresses are counted in a file.
PLUGIN = """#!/bin/sh
cat > /dev/null
case "$CNI_COMMAND" in
VERSION) echo '{{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}}' ;;
ADD)
  number=$(flock {root}/cni/lock sh -c 'echo . >> {root}/cni/count; wc -l < {root}/cni/count')
  address=10.244.77.$((number % 250 + 2))
  nsenter --net="$CNI_NETNS" ip addr add "$address/32" dev lo >&2 || true
  echo '{{"cniVersion":"0.4.0","interfaces":[{{"name":"eth0","sandbox":"'$CNI_NETNS'"}}],'
  echo '"ips":[{{"version":"4","interface":0,"address":"'$address'/32"}}]}}' ;;
esac
"""


def missing() -> list[str]:
    """The programs this machine lacks."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Containerd:
    """One containerd in `root` (a short path: sockets lie in it), with the images of busybox and pause."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.endpoint = f"unix://{root}/s"
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded = False

    @property
    def pid(self) -> int:
        """Of containerd itself; its shims are processes of their own."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Begin, or begin again: what ran goes on under its shims."""
        await asyncio.to_thread(self._begin)
        for _ in range(int(START / 0.05)):
            if (await asyncio.to_thread(self._ctr, "version")).returncode == 0:
                break
            await asyncio.sleep(0.05)
        if not self._loaded:
            await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        """Kill it alone."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """End it and every shim, and remove what they leave."""
        await self.stop()
        await asyncio.to_thread(self._sweep)

    def _begin(self) -> None:
        plugins = self.root / "cni"
        plugins.mkdir(parents=True, exist_ok=True)
        plugin = plugins / "loopback-address"
        plugin.write_text(PLUGIN.format(root=self.root))
        plugin.chmod(0o755)
        # containerd brings the loopback device up itself, through a plugin of this name.
        (plugins / "loopback").write_text(LOOPBACK)
        (plugins / "loopback").chmod(0o755)
        network = {"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "loopback-address"}]}
        (plugins / "10-test.conflist").write_text(json.dumps(network))
        (self.root / "config.toml").write_text(CONFIG.format(root=self.root, pause=PAUSE))
        with (self.root / "log").open("ab") as log:
            command = ["containerd", "--config", str(self.root / "config.toml")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", f"{self.root}/s", "-n", "k8s.io", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _load(self) -> None:
        """Hand it the images our own runtime would have assembled."""
        store = ImageStore(self.root / "images")
        for image, name in ((ensure_pause(store), PAUSE), (ensure_busybox(store), BUSYBOX)):
            archive = self.root / "image.tar"
            write_archive(store, image, name, archive)
            done = self._ctr("images", "import", str(archive))
            assert done.returncode == 0, done.stderr
        self._loaded = True

    def _sweep(self) -> None:
        mark = f"{self.root}/s"
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "containerd-shim" in words[0] and mark in words:
                    os.kill(int(entry.name), signal.SIGKILL)
        unmount_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


PAUSE = "registry.k8s.io/pause:3.10.1"
BUSYBOX = "docker.io/library/busybox:latest"
LOOPBACK = """#!/bin/sh
cat > /dev/null
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
ADD)
  nsenter --net="$CNI_NETNS" ip link set lo up >&2
  echo '{"cniVersion":"0.3.1","interfaces":[{"name":"lo","sandbox":"'$CNI_NETNS'"}],'
  echo '"ips":[{"version":"4","interface":0,"address":"127.0.0.1/8"}]}' ;;
esac
"""


def write_archive(store: ImageStore, image: Image, name: str, path: Path) -> None:
    """The image as `docker save` writes one: a layer a directory of the store, the config, a manifest."""
    config: dict[str, Any] = json.loads(store.blob(image.id).read_bytes())
    layers = []
    with tarfile.open(path, "w") as archive:
        for number, layer in enumerate(image.layers):
            file = path.with_name(f"layer-{number}.tar")
            with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as made:
                for entry in sorted(store.layer(layer).iterdir()):
                    made.add(entry, entry.name)
            layers.append(f"{number}/layer.tar")
            archive.add(file, layers[-1])
        config["rootfs"]["diff_ids"] = [_digest(path.with_name(f"layer-{n}.tar")) for n in range(len(layers))]
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": layers}]
        for title, document in (("config.json", config), ("manifest.json", manifest)):
            file = path.with_name(title)
            file.write_text(json.dumps(document))
            archive.add(file, title)


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
