"""/metrics/cadvisor: what containers and pods use, under the names and labels dashboards and alerts are written for.

Of cAdvisor's metrics those that a CRI runtime can tell (KEP-2371); a pod as a whole has the label container="".
https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tiphys.api.core.v1 import Pod
from tiphys.base.metrics import Registry
from tiphys.kubelet.cri.state import RuntimePod
from tiphys.kubelet.node.machine import Machine
from tiphys.kubelet.pod import PodUID, container_named
from tiphys.kubelet.resources import container_amounts, cpu_shares
from tiphys.machinery.time import parse_rfc3339

Json = dict[str, Any]

WHERE: Final = ("container", "id", "image", "name", "namespace", "pod")
CFS_PERIOD: Final = 100_000  # microseconds


class Known(NamedTuple):
    """A pod of the node beside its measurements. `cgroup` is its path."""

    pod: Pod
    runtime: RuntimePod
    cgroup: str


def cadvisor_metrics(document: Json, machine: Machine, known: Callable[[PodUID], Known | None]) -> bytes:
    """The metrics of one moment, from a stats summary, in the Prometheus text format."""
    made = _Metrics(machine)
    for measured in document["pods"]:
        found = known(PodUID(measured["podRef"]["uid"]))
        if found is not None:
            made.pod(measured, found)
    return made.registry.expose()


class _Metrics:
    """All of them, filled pod by pod."""

    def __init__(self, machine: Machine) -> None:
        self.registry = registry = Registry()
        registry.gauge("machine_cpu_cores", "Number of logical CPU cores.").labels().set(machine.cpus)
        registry.gauge("machine_memory_bytes", "Amount of memory installed on the machine.").labels().set(
            machine.memory
        )
        registry.gauge(
            "container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise"
        ).labels().set(0)
        self._cpu = registry.counter(
            "container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", (*WHERE, "cpu")
        )
        self._failures = registry.counter(
            "container_memory_failures_total",
            "Cumulative count of memory allocation failures.",
            (*WHERE, "failure_type", "scope"),
        )
        gauges = {
            "container_memory_usage_bytes": "Current memory usage in bytes, including all memory.",
            "container_memory_working_set_bytes": "Current working set in bytes.",
            "container_memory_rss": "Size of RSS in bytes.",
            "container_start_time_seconds": "Start time of the container since unix epoch in seconds.",
            "container_last_seen": "Last time a container was seen by the exporter",
            "container_processes": "Number of processes running inside the container.",
            "container_spec_cpu_period": "CPU period of the container.",
            "container_spec_cpu_quota": "CPU quota of the container.",
            "container_spec_cpu_shares": "CPU share of the container.",
            "container_spec_memory_limit_bytes": "Memory limit for the container.",
        }
        self._gauges = {name: registry.gauge(name, text, WHERE) for name, text in gauges.items()}
        self._disk = registry.gauge(
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            (*WHERE, "device"),
        )
        self._network = {
            (way, what): registry.counter(
                f"container_network_{way}_{what}_total", f"Cumulative count of {what} {way}d", (*WHERE, "interface")
            )
            for way in ("receive", "transmit")
            for what in ("bytes", "errors")
        }

    def pod(self, measured: Json, known: Known) -> None:
        """A pod, and each of its containers."""
        namespace, name = measured["podRef"]["namespace"], measured["podRef"]["name"]
        whole = ("", known.cgroup, "", "", namespace, name)
        self._use(whole, measured)
        self._gauges["container_processes"].labels(*whole).set(measured["process_stats"]["process_count"])
        for each in measured.get("network", {}).get("interfaces", ()):
            for way, short in (("receive", "rx"), ("transmit", "tx")):
                for what in ("bytes", "errors"):
                    counter = self._network[way, what].labels(*whole, each["name"])
                    counter.inc(each[f"{short}{what.capitalize()}"])
        for container in measured["containers"]:
            current = known.runtime.container(container["name"])
            if current is None:
                continue
            identity = f"{known.cgroup}/{current.id}"
            where = (container["name"], identity, current.image, current.id, namespace, name)
            self._use(where, container)
            self._spec(where, known.pod, container["name"])
            if "rootfs" in container:
                self._disk.labels(*where, "").set(container["rootfs"]["usedBytes"])

    def _use(self, where: tuple[str, ...], measured: Json) -> None:
        memory = measured["memory"]
        self._cpu.labels(*where, "total").inc(measured["cpu"]["usageCoreNanoSeconds"] / 1e9)
        for kind, field in (("pgfault", "pageFaults"), ("pgmajfault", "majorPageFaults")):
            self._failures.labels(*where, kind, "container").inc(memory[field])
        values = {
            "container_memory_usage_bytes": memory["usageBytes"],
            "container_memory_working_set_bytes": memory["workingSetBytes"],
            "container_memory_rss": memory["rssBytes"],
            "container_start_time_seconds": parse_rfc3339(measured["startTime"]).timestamp(),
            "container_last_seen": time.time(),
        }
        for name, value in values.items():
            self._gauges[name].labels(*where).set(value)

    def _spec(self, where: tuple[str, ...], pod: Pod, name: str) -> None:
        """What the container may use, as its cgroup says it."""
        container = container_named(pod, name)
        if container is None:
            return
        limits, requests = container_amounts(container, "limits"), container_amounts(container, "requests")
        asked = requests.get("cpu") or limits.get("cpu")
        self._gauges["container_spec_cpu_shares"].labels(*where).set(cpu_shares(asked.milli_value() if asked else 0))
        self._gauges["container_spec_cpu_period"].labels(*where).set(CFS_PERIOD)
        if "cpu" in limits:
            quota = limits["cpu"].milli_value() * CFS_PERIOD // 1000
            self._gauges["container_spec_cpu_quota"].labels(*where).set(quota)
        memory = limits["memory"].value() if "memory" in limits else 0
        self._gauges["container_spec_memory_limit_bytes"].labels(*where).set(memory)
