"""Real etcd members for tests: started in a directory, killed by pid, gone at the end.

The program is `etcd` from the path (Debian: etcd-server), or what TIPHYS_TEST_ETCD names: a path, or several with ":"
between them, each of which the contract suite of the store then runs over.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

WHY_NOT = "there is no etcd to run: install Debian's etcd-server, or name one in TIPHYS_TEST_ETCD"
START_WITHIN = 30.0  # seconds


def programs() -> list[str]:
    """The etcd programs to test with; empty when there is none."""
    named = os.environ.get("TIPHYS_TEST_ETCD")
    if named:
        return named.split(":")
    found = shutil.which("etcd")
    return [found] if found else []


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Member:
    """One etcd process and its directory."""

    def __init__(self, command: list[str], url: str, log: Path) -> None:
        self.command = command
        self.url = url
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self.process is None
        with self._log.open("ab") as log:
            # Without it etcd 3.4 refuses to start on processors it was not tested on.
            environment = {**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """kill -9, as a machine that loses power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """The member hangs: its connections stay open and nothing comes."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class EtcdCluster:
    """Members of one cluster; a context manager. `durable` syncs the disk on every write, as it should."""

    def __init__(
        self, directory: Path, *, program: str, members: int = 1, quota: int = 0, durable: bool = True
    ) -> None:
        ports = free_ports(2 * members)
        clients = [f"http://127.0.0.1:{port}" for port in ports[:members]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        everybody = ",".join(f"m{i}={url}" for i, url in enumerate(peers))
        directory.mkdir(parents=True, exist_ok=True)
        self.members: list[Member] = []
        for i, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            command = [program, "--name", f"m{i}", "--data-dir", str(directory / f"m{i}"), "--log-level", "warn"]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", everybody]
            command += ["--quota-backend-bytes", str(quota)] if quota else []
            command += [] if durable else unsafe(program)
            self.members.append(Member(command, client, directory / f"m{i}.log"))
        self.urls = clients
        self._data = [directory / f"m{i}" for i in range(members)]

    def wait_ready(self) -> None:
        """Until every running member is part of a cluster with a leader."""
        for member in self.members:
            deadline = time.monotonic() + START_WITHIN
            while member.process is not None:
                try:
                    with urlopen(f"{member.url}/health", timeout=1) as answer:
                        if b'"true"' in answer.read():
                            break
                except OSError:
                    pass
                if member.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"etcd did not start: {member.command}")
                time.sleep(0.01)

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                member.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for data in self._data:  # 128 MiB a member, however little was written; the logs beside it stay
            shutil.rmtree(data, ignore_errors=True)


_UNSAFE: dict[str, list[str]] = {}


def unsafe(program: str) -> list[str]:
    """The flag that spares the syncing of disks, of programs that have it (3.5 on): tests of semantics are faster."""
    if program not in _UNSAFE:
        told = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        known = "unsafe-no-fsync" in told.stdout + told.stderr
        _UNSAFE[program] = ["--unsafe-no-fsync"] if known else []
    return _UNSAFE[program]
