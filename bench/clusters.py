"""Clusters to measure: made by `tiphys up` as a user makes them, taken away whatever happens."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIPHYS = (sys.executable, "-m", "tiphys.cmd.main")


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that runs, and what `up` said."""

    name: str
    kubeconfig: Path
    output: str

    def status(self) -> dict[str, Any]:
        """`tiphys status -o json`."""
        found: dict[str, Any] = json.loads(tiphys("status", "--name", self.name, "-o", "json"))
        return found

    def processes(self) -> dict[str, int]:
        """Name → pid of everything that runs, the supervisor too."""
        status = self.status()
        found = {row["name"]: row["pid"] for row in status["processes"] if row["pid"]}
        return {"supervisor": status["supervisor"]["pid"], **found}


def tiphys(*arguments: str) -> str:
    """Run a command of ours; its output. Raises SystemExit with its words when it fails."""
    done = subprocess.run([*TIPHYS, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tiphys {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """As many ports one after another that nobody has now, and that no connection is given as its own."""
    while True:
        first = random.randrange(20_000, 32_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + count))


@contextmanager
def cluster(*flags: str, name: str = "") -> Iterator[Running]:
    """A cluster made with `flags`; purged at the end."""
    name = name or f"bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tiphys-bench-") as directory:
        kubeconfig = Path(directory) / "kubeconfig"
        up = ("up", "--name", name, "--api-port", str(free_port()), "--kubeconfig", str(kubeconfig), *flags)
        try:
            yield Running(name, kubeconfig, tiphys(*up))
        finally:
            tiphys("down", "--name", name, "--purge")
