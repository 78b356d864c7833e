"""The programs that Go tests with controller-runtime's envtest start: what KUBEBUILDER_ASSETS names.

    eval "$(python -m tiphys.testing --envtest)"; go test ./...
    python -m tiphys.testing --envtest go test ./...

envtest looks for `kube-apiserver`, `etcd` and `kubectl` there (The Kubebuilder Book, "Configuring envtest"). The first
two are scripts that start Tiphys' API server, with its state in memory, and what answers etcd's health check.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "KUBEBUILDER_ASSETS"
PROGRAMS: Final = ("kube-apiserver", "etcd")
MODULE: Final = "tiphys.cmd.envtest"


def default_directory() -> Path:
    """Where the programs are kept: they name this Python, so each environment has its own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tiphys" / "envtest" / Path(sys.prefix).as_posix().strip("/").replace("/", "-")


def write_assets(directory: Path) -> Path:
    """Write the programs into `directory`, which is made; returns it. kubectl is there when this machine has one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {MODULE} {name} "$@"\n'
        # Another test run may be starting the old one: it is replaced whole, never seen half.
        made = directory / f".{name}.{os.getpid()}"
        made.write_text(script)
        made.chmod(0o755)
        made.replace(directory / name)
    kubectl = shutil.which("kubectl")
    link = directory / "kubectl"
    if kubectl and not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(kubectl)
    return directory
