"""A machine of its own under qemu: Debian's cloud kernel, cgroup version 2 alone, this tree and this Python in memory.

```
 initramfs: Python, tiphys, tests, busybox, what is asked for ──► overlay on / ──► python3 -m <module>
 console:   … RESULT {json}
```
Emulated, for /dev/kvm of a machine that is itself a guest cannot be relied on: some twenty times slower than this
machine, which the modules have to bear.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiphys.runtime.images import elf
from tiphys.runtime.images.store import ImageStore
from tiphys.runtime.images.system import PACKAGES, SITE, ensure_system

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 420.0  # seconds
MEMORY = 2048  # MiB: the initramfs stays in it
# What kube-proxy's modes ask the kernel for.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq")
NFT = ("numgen", "ct", "nat", "masq", "fib_ipv4", "fib_ipv6", "fib_inet", "reject_ipv4", "reject_ipv6", "chain_nat")
PROXY_MODULES = ("ip_vs", "dummy", *(f"ip_vs_{each}" for each in SCHEDULERS), *(f"nft_{each}" for each in NFT))

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
modprobe overlay
mkdir -p /ram && mount -t tmpfs ram /ram && mkdir /ram/up /ram/work /ram/root
mount -t overlay overlay -o lowerdir=/,upperdir=/ram/up,workdir=/ram/work /ram/root
for place in proc sys dev; do mount --move /$place /ram/root/$place; done
cd /ram/root && mount --move . / && exec chroot . /second
"""
SECOND = """#!/bin/sh
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mkdir -p /run/netns /dev/pts /dev/shm
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t cgroup2 none /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd; ln -sfn /run /var/run; ip link set lo up
ln -sf {dash} /bin/sh  # busybox's would run its own ip, and so on, whatever PATH says
{load}
cd /tree && env {environment} PYTHONPATH={site}:/tree PATH=/usr/sbin:/usr/bin:/sbin:/bin python3 -m {module} 2>&1
sync; poweroff -f
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is in it besides Python, this tree and busybox."""

    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # of Python
    modules: tuple[str, ...] = ()  # of the kernel, loaded at its start
    loadable: tuple[str, ...] = ()  # of the kernel, there when it asks for them
    trees: tuple[str, ...] = ("tests",)  # directories of this repository besides the product's
    directories: tuple[str, ...] = ()  # of this machine, with their files

    def missing(self) -> list[str]:
        """What this machine lacks of what it takes."""
        wanted = ("qemu-system-x86_64", "cpio", "busybox", "dash", "modprobe", *self.programs)
        programs = [name for name in wanted if shutil.which(name) is None]
        version = _version()
        if not version:
            return [*programs, "a kernel with its modules (linux-image-cloud-amd64)"]
        known = _module_files(version)
        return programs + [f"kernel module {each}" for each in (*self.modules, *self.loadable) if each not in known]


def _version() -> str:
    """The newest cloud kernel that is installed with its modules; empty: none."""
    for image in sorted(Path("/boot").glob("vmlinuz-*cloud*"), reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        if (Path("/lib/modules") / version / "modules.dep").exists():
            return version
    return ""


def _module_files(version: str) -> dict[str, list[str]]:
    """Module → its file and those it needs, relative to the directory of modules."""
    found = {}
    for line in (Path("/lib/modules") / version / "modules.dep").read_text().splitlines():
        file, _, needed = line.partition(":")
        found[Path(file).name.partition(".")[0]] = [file, *needed.split()]
    return found


def run(
    machine: Machine,
    module: str,
    directory: Path,
    *,
    memory: int = MEMORY,
    patience: float = PATIENCE,
    **environment: str,
) -> dict[str, Any]:
    """Run `python3 -m module` in the machine; what it printed behind RESULT. `directory` is for the machine's files.

    `memory` is in MiB, `patience` in seconds: subprocess.TimeoutExpired when it has not ended by then.
    """
    kernel = Path("/boot") / f"vmlinuz-{_version()}"
    archive = _initramfs(machine, module, directory, environment)
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
        str(memory),
        "-smp",
        "2",
        "-nic",
        "none",
        "-cpu",
        "max",
    ]
    command += ["-kernel", str(kernel), "-initrd", str(archive)]
    command += ["-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience)
    said = console.read_text(errors="replace") + done.stderr
    results = [line.partition("RESULT ")[2] for line in said.splitlines() if "RESULT " in line]
    assert results, said[-4000:]
    answer: dict[str, Any] = json.loads(results[-1])
    return answer


def _initramfs(machine: Machine, module: str, directory: Path, environment: dict[str, str]) -> Path:
    store = ImageStore(directory / "images")
    image = ensure_system(store, packages=(*PACKAGES, "zstandard", *machine.packages))
    root = directory / "root"
    shutil.copytree(store.layer(image.layers[0]), root, symlinks=True)
    for name in ("dash", "modprobe", *machine.programs):
        program = Path(shutil.which(name) or name)
        for file in (program, *elf.libraries([program.resolve()])):
            target = root / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if file == program or not target.exists():
                target.unlink(missing_ok=True)  # a link of busybox's
                shutil.copy(file, target)
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
    (root / "sbin").mkdir(exist_ok=True)
    shutil.copy(shutil.which("modprobe") or "", root / "sbin" / "modprobe")  # where the kernel looks for it
    _add_modules(root, ("overlay", *machine.modules, *machine.loadable))
    for each in machine.directories:
        shutil.copytree(each, root / each.lstrip("/"), dirs_exist_ok=True)
    for tree in machine.trees:
        shutil.copytree(REPOSITORY / tree, root / "tree" / tree, ignore=shutil.ignore_patterns("__pycache__"))
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    load = f"modprobe -a {' '.join(machine.modules)}" if machine.modules else ""
    second = SECOND.format(environment=words, site=SITE, module=module, load=load, dash=shutil.which("dash"))
    for name, text in (("init", INIT), ("second", second)):
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


def _add_modules(root: Path, names: Iterable[str]) -> None:
    version = _version()
    source, target = (top / version for top in (Path("/lib/modules"), root / "lib/modules"))
    files = _module_files(version)
    for file in {file for name in names for file in files[name]}:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, target / file)
    for listing in source.glob("modules.[bdo]*"):  # what is built in, the dependencies' order
        shutil.copy(listing, target)
    subprocess.run(["depmod", "-b", str(root), version], check=True)


def _names(root: Path) -> Iterator[str]:
    for place, directories, files in os.walk(root):
        yield from (os.path.relpath(os.path.join(place, name), root) for name in (*directories, *files))
