"""What is said of the process and of the program, read at scrape time.

https://kubernetes.io/docs/reference/instrumentation/metrics/, https://prometheus.io/docs/instrumenting/writing_clientlibs/
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tiphys.base.features import KNOWN_GATES
from tiphys.base.metrics import REGISTRY
from tiphys.base.version import VERSION

Series = Iterator[tuple[tuple[str, ...], float]]
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Gates that are neither on their way in nor out have no stage.
_STAGES: Final = {"AllAlpha": "ALPHA", "AllBeta": "BETA", "MaxUnavailableStatefulSet": "BETA", "WatchList": "BETA"}


def _stat() -> list[str]:
    """The fields of proc_pid_stat(5) from the third on."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


@cache
def _start(process: int) -> float:
    """When the process began, in epoch seconds; by its number, as a process that is forked has another."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + int(_stat()[19]) / _TICKS


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


_NUMBERS: Final[tuple[tuple[str, str, str, Callable[[], float]], ...]] = (
    ("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", _processor),
    ("process_max_fds", "gauge", "Maximum number of open file descriptors.", lambda: _limit(resource.RLIMIT_NOFILE)),
    ("process_open_fds", "gauge", "Number of open file descriptors.", lambda: len(os.listdir("/proc/self/fd"))),
    (
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        lambda: int(_stat()[21]) * _PAGE,
    ),
    (
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        lambda: _start(os.getpid()),
    ),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", lambda: int(_stat()[20])),
    (
        "process_virtual_memory_max_bytes",
        "gauge",
        "Maximum amount of virtual memory available in bytes.",
        lambda: _limit(resource.RLIMIT_AS),
    ),
)


def _limit(which: int) -> float:
    soft = resource.getrlimit(which)[0]
    return float(2**64 - 1) if soft == resource.RLIM_INFINITY else soft


def expose_process() -> list[Callable[[], None]]:
    """Add the families; what is returned takes them away."""
    removers = []
    for name, kind, text, value in _NUMBERS:
        removers.append(REGISTRY.computed(kind, name, text, (), _single(value)))
    names = {
        "major": "major",
        "minor": "minor",
        "git_version": "gitVersion",
        "git_commit": "gitCommit",
        "git_tree_state": "gitTreeState",
        "build_date": "buildDate",
        "go_version": "goVersion",
        "compiler": "compiler",
        "platform": "platform",
    }
    values = tuple(VERSION[name] for name in names.values())
    text = (
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, "
        "build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running."
    )
    removers.append(REGISTRY.computed("gauge", "kubernetes_build_info", text, tuple(names), lambda: [(values, 1)]))
    text = "[BETA] This metric records the data about the stage and enablement of a k8s feature."
    removers.append(REGISTRY.computed("gauge", "kubernetes_feature_enabled", text, ("name", "stage"), _features))
    return removers


def _single(value: Callable[[], float]) -> Callable[[], Series]:
    def series() -> Series:
        yield (), value()

    return series


def _features() -> Series:
    for name, on in KNOWN_GATES.items():
        yield (name, _STAGES.get(name, "")), int(on)
