"""A machine of its own under qemu: Debian's cloud kernel, cgroup version 2 alone, this tree and this Python in memory.

```
 initramfs: Python, tiphys, tests, runc, conmon, busybox, overlay.ko ──► overlay on / ──► python3 -m <module>
 console:   … RESULT {json}
```
Emulated, for /dev/kvm of a machine that is itself a guest cannot be relied on: some twenty times slower than this
machine, which the modules have to bear.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiphys.runtime.images import elf
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.images.system import PACKAGES, SITE, ensure_system

TESTS = Path(__file__).parents[2]
PROGRAMS = ("runc", "conmon")
PATIENCE = 420.0  # seconds
MEMORY = "2048"  # MiB: the initramfs stays in it

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
insmod /overlay.ko
mkdir -p /ram && mount -t tmpfs ram /ram && mkdir /ram/up /ram/work /ram/root
mount -t overlay overlay -o lowerdir=/,upperdir=/ram/up,workdir=/ram/work /ram/root
for place in proc sys dev; do mount --move /$place /ram/root/$place; done
cd /ram/root && mount --move . / && exec chroot . /second
"""
SECOND = """#!/bin/sh
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mkdir -p /run/netns /dev/pts /dev/shm
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t cgroup2 none /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd; ip link set lo up
cd /tree && env {environment} PYTHONPATH={site}:/tree PATH=/usr/sbin:/usr/bin:/sbin:/bin python3 -m {module} 2>&1
sync; poweroff -f
"""


def missing() -> list[str]:
    """What this machine lacks of what it takes."""
    programs = [name for name in ("qemu-system-x86_64", "cpio", "busybox", *PROGRAMS) if shutil.which(name) is None]
    return programs + ([] if _kernel() else ["a kernel with its overlay module"])


def _kernel() -> tuple[Path, Path] | None:
    """(kernel, overlay module) of one version."""
    for image in sorted(Path("/boot").glob("vmlinuz-*cloud*"), reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        module = Path("/lib/modules") / version / "kernel/fs/overlayfs/overlay.ko"
        if module.exists():
            return image, module
    return None


def run(module: str, directory: Path, **environment: str) -> dict[str, Any]:
    """Run `python3 -m module` in the machine; what it printed behind RESULT. `directory` is for the machine's files."""
    found = _kernel()
    assert found is not None
    kernel, overlay = found
    archive = _initramfs(module, directory, overlay, environment)
    console = directory / "console"
    command = [
        "qemu-system-x86_64",
        "-display",
        "none",
        "-serial",
        f"file:{console}",
        "-monitor",
        "none",
        "-no-reboot",
        "-m",
        MEMORY,
        "-smp",
        "2",
        "-nic",
        "none",
        "-cpu",
        "max",
    ]
    command += ["-kernel", str(kernel), "-initrd", str(archive)]
    command += ["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    said = console.read_text(errors="replace") + done.stderr
    results = [line.partition("RESULT ")[2] for line in said.splitlines() if "RESULT " in line]
    assert results, said[-4000:]
    answer: dict[str, Any] = json.loads(results[-1])
    return answer


def _initramfs(module: str, directory: Path, overlay: Path, environment: dict[str, str]) -> Path:
    store = ImageStore(directory / "images")
    image = ensure_system(store, packages=(*PACKAGES, "grpcio", "zstandard"))
    root = directory / "root"
    shutil.copytree(store.layer(image.layers[0]), root, symlinks=True)
    for name in PROGRAMS:
        program = Path(shutil.which(name) or name)
        for file in (program, *elf.libraries([program.resolve()])):
            target = root / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(file, target)
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    shutil.copy(overlay, root / "overlay.ko")
    shutil.copytree(TESTS, root / "tree" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    words = " ".join(f"{name}={value}" for name, value in environment.items())
    for name, text in (("init", INIT), ("second", SECOND.format(environment=words, site=SITE, module=module))):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    for name in ("proc", "sys", "dev", "tmp", "run", "etc", "root", "var"):
        (root / name).mkdir(exist_ok=True)
    for name, text in (
        ("hosts", "127.0.0.1 localhost\n"),
        ("resolv.conf", ""),
        ("passwd", "root:x:0:0::/root:/bin/sh\n"),
    ):
        (root / "etc" / name).write_text(text)
    archive = directory / "initramfs"
    with archive.open("wb") as out:
        listed = "\n".join(_names(root)).encode() + b"\n"
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=listed, stdout=out, cwd=root, check=True)
    return archive


def _names(root: Path) -> Iterator[str]:
    for place, directories, files in os.walk(root):
        yield from (os.path.relpath(os.path.join(place, name), root) for name in (*directories, *files))
