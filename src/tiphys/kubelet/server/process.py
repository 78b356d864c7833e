"""What the kubelet's process uses, and what it was made from, read when it is asked for.

https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tiphys import KUBERNETES_VERSION
from tiphys.base.metrics import REGISTRY

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def expose_process() -> list[Callable[[], None]]:
    """Add `process_*` and `kubernetes_build_info` to what is exposed; what is returned takes them away."""
    began = time.time() - _age()
    numbers: tuple[tuple[str, str, str, Callable[[], float]], ...] = (
        ("cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", time.process_time),
        ("max_fds", "gauge", "Maximum number of open file descriptors.", lambda: _limit(resource.RLIMIT_NOFILE)),
        ("open_fds", "gauge", "Number of open file descriptors.", lambda: len(os.listdir("/proc/self/fd"))),
        ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", lambda: int(_stat()[21]) * _PAGE),
        ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", lambda: began),
        ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", lambda: int(_stat()[20])),
    )
    removers = [
        REGISTRY.computed(kind, f"process_{name}", text, (), _single(value)) for name, kind, text, value in numbers
    ]
    build = _build()
    text = (
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, "
        "build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running."
    )
    series = [(tuple(build.values()), 1.0)]
    removers.append(REGISTRY.computed("gauge", "kubernetes_build_info", text, tuple(build), lambda: series))
    return removers


def _build() -> dict[str, str]:
    """The labels of the program; empty where a program that is not compiled has nothing to say."""
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".", 2)
    machine = platform.machine()
    return {
        "build_date": "",
        "compiler": platform.python_implementation().lower(),
        "git_commit": "",
        "git_tree_state": "",
        "git_version": KUBERNETES_VERSION,
        "go_version": f"python{platform.python_version()}",
        "major": major,
        "minor": minor,
        "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }",
    }


def _single(value: Callable[[], float]) -> Callable[[], Iterator[tuple[tuple[str, ...], float]]]:
    def series() -> Iterator[tuple[tuple[str, ...], float]]:
        yield (), value()

    return series


def _stat() -> list[str]:
    """The fields of proc_pid_stat(5) from the third on."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def _age() -> float:
    """Seconds since the process began."""
    return float(Path("/proc/uptime").read_text().split()[0]) - int(_stat()[19]) / _TICKS


def _limit(which: int) -> float:
    soft = resource.getrlimit(which)[0]
    return float(2**64 - 1) if soft == resource.RLIM_INFINITY else soft
