"""A cluster as a user has it: started by the command line, asked through kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 60.0
# Another name and port let two runs live side by side on one machine.
NAME = os.environ.get("TIPHYS_E2E_NAME", "e2e")
PORT = os.environ.get("TIPHYS_E2E_PORT", "16600")


def tiphys(*words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a tiphys command."""
    command = [sys.executable, "-m", "tiphys.cmd.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise AssertionError(f"tiphys {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def kubectls() -> list[Path]:
    """Every kubectl of this machine: the one in the path, and versions that lie beside it as `kubectl.1.27`."""
    found = shutil.which("kubectl")
    if found is None:
        return []
    main = Path(found).resolve()
    beside = sorted(path for path in main.parent.glob("kubectl.1.*") if os.access(path, os.X_OK))
    return beside or [main]


def until(check: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true answer of `check`; an AssertionError in it counts as "not yet"."""
    deadline = time.monotonic() + patience
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = check()
        except AssertionError as error:
            last = error
        else:
            if found:
                return found
            last = found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {patience:.0f} s: {last}")


class Cluster:
    """One cluster of this machine and the ways to ask it."""

    def __init__(self, name: str, kubectl: Path | None = None) -> None:
        self.name = name
        self.kubeconfig = Path.home() / ".kube" / f"tiphys-{name}.yaml"
        self.program = kubectl or (kubectls() or [Path("kubectl")])[-1]

    def up(self, *words: str) -> str:
        """Start it; what the command printed."""
        return tiphys("up", "--name", self.name, *words).stdout

    def down(self, *words: str) -> None:
        tiphys("down", "--name", self.name, *words)

    def status(self) -> dict[str, Any]:
        """`tiphys status -o json`."""
        document: dict[str, Any] = json.loads(tiphys("status", "--name", self.name, "-o", "json", check=False).stdout)
        return document

    def pids(self) -> dict[str, int]:
        """Process ids by component."""
        return {row["name"]: row["pid"] for row in self.status()["processes"] if row["pid"]}

    def run(self, *words: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """kubectl, whatever its exit status."""
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            [str(self.program), *words],
            input=stdin,
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            **({} if stdin is not None else {"stdin": subprocess.DEVNULL}),
        )

    def kubectl(self, *words: str, stdin: str | None = None, timeout: float = 120) -> str:
        """kubectl that must succeed; its output."""
        done = self.run(*words, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}\n{done.stdout}"
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        document: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return document

    def apply(self, document: str) -> str:
        """`kubectl apply -f -`."""
        return self.kubectl("apply", "-f", "-", stdin=document)

    def phase(self, pod: str, namespace: str = "default") -> str:
        return self.kubectl("get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.phase}")

    def wait_ready(self, pod: str, namespace: str = "default") -> None:
        self.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", "-n", namespace, "--timeout=60s")


class In(Cluster):
    """kubectl with a namespace given to every command."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__(cluster.name, cluster.program)
        self.namespace = namespace

    def run(self, *words: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        # Before any "--", behind which the words are a program's.
        return super().run(f"--namespace={self.namespace}", *words, stdin=stdin, timeout=timeout)

    @contextmanager
    def background(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        process = subprocess.Popen(
            [str(self.program), f"--namespace={self.namespace}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()
