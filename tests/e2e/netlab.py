"""A small laboratory of network namespaces for packet tests: nodes joined by a bridge, pods on them.

Everything is inside namespaces named `tph-test-…`; the host's own network is not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from tiphys.base.netns import call_in

T = TypeVar("T")
L = TypeVar("L", bound="Lab")


def sh(command: str, netns: str = "") -> str:
    """Run a command line (in a namespace) and return what it prints; raises CalledProcessError with its errors."""
    prefix = f"ip netns exec {netns} " if netns else ""
    done = subprocess.run(prefix + command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{prefix}{command}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Lab:
    """Namespaces that disappear when the laboratory closes."""

    def __init__(self) -> None:
        self.prefix = f"tph-test-{uuid.uuid4().hex[:6]}"
        self._names: list[str] = []
        self._servers: list[subprocess.Popen[bytes]] = []

    def netns(self, name: str) -> str:
        """Make a namespace; returns its full name."""
        full = f"{self.prefix}-{name}"
        sh(f"ip netns add {full}")
        self._names.append(full)
        sh("ip link set lo up", full)
        return full

    def switch(self) -> str:
        """A namespace with a bridge `sw` to which `plug` joins nodes."""
        full = self.netns("sw")
        sh("ip link add sw type bridge", full)
        sh("ip link set sw up", full)
        # What only passes the switch is no business of the netfilter of its namespace.
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0", full)
        return full

    def plug(self, netns: str, switch: str, address: str, link: str = "eth0") -> None:
        """Join a namespace to the switch with an address in CIDR form."""
        port = f"p{uuid.uuid4().hex[:8]}"
        sh(f"ip link add {link} netns {netns} type veth peer name {port} netns {switch}")
        sh(f"ip link set {port} master sw up", switch)
        sh(f"ip addr add {address} dev {link}", netns)
        sh(f"ip link set {link} up", netns)

    def serve(self, netns: str, port: int, answer: str, udp: bool = False) -> None:
        """Answer every connection (or datagram) to a port with `answer` and the client's address."""
        kind = "udp" if udp else "tcp"
        script = os.path.join(os.path.dirname(__file__), "echo_server.py")
        process = subprocess.Popen(
            ["ip", "netns", "exec", netns, "python3", script, kind, str(port), answer], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        self._servers.append(process)

    def close(self) -> None:
        for process in self._servers:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextlib.contextmanager
def lab(kind: type[L] = Lab) -> Iterator[L]:  # type: ignore[assignment]  # mypy does not see a default's type
    """A laboratory that is taken away at the end, also after a failure."""
    made = kind()
    try:
        yield made
    finally:
        made.close()


def path(netns: str) -> str:
    """Where the namespace is mounted."""
    return f"/run/netns/{netns}"


def ask(netns: str, address: str, port: int, *, udp: bool = False, timeout: float = 2.0, source: str = "") -> str:
    """One question from a namespace: "server client-address", or `refused` or `timeout`."""
    import socket

    def work() -> str:
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, kind) as channel:
            channel.settimeout(timeout)
            if source:
                channel.bind((source, 0))
            try:
                channel.connect((address, port))
                channel.send(b"?")
                return channel.recv(200).decode()
            except TimeoutError:
                return "timeout"
            except OSError:
                return "refused"

    return call_in(path(netns), work)


def run_in(netns: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop of a thread inside the namespace."""
    return call_in(path(netns), lambda: asyncio.run(work()))


class Background:
    """A coroutine running in a namespace in the background until `stop`."""

    def __init__(self, netns: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._started = threading.Event()
        self.error: BaseException | None = None

        def body() -> None:
            async def main() -> None:
                self._loop = asyncio.get_running_loop()
                self._task = asyncio.create_task(work())
                self._started.set()
                try:
                    await self._task
                except asyncio.CancelledError:
                    pass
                except Exception as error:  # shown by stop()
                    self.error = error

            call_in(path(netns), lambda: asyncio.run(main()))

        self._thread = threading.Thread(target=body)
        self._thread.start()
        self._started.wait(10)

    def call(self, function: Callable[[], Any]) -> None:
        """Run a function in the loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        if self._loop is not None and self._task is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)
        if self.error is not None:
            raise self.error
